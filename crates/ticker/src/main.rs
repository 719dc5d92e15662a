//! The example daemon of the guest images: reports READY, prints ticks, and stops on SIGTERM. Its options produce every
//! kind of failure that a test needs.

mod rows;
mod world;

use nix::sys::signal::{SigSet, Signal};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant, SystemTime};

const USAGE: &str = "\
usage: ticker [--interval MS] [--no-ready] [--ready-after MS] [--watchdog MS] [--ignore-term] [--after MS]
              [--exit CODE | --die SIGNAL | --panic-kernel] [--print BYTES] [--fill BYTES] [--rate BYTES_PER_SECOND]
              [--flood] [--eat MB] [--write MB] [--to PATH] [--record PATH] [--show NAME] [--cat PATH] [--say TEXT] [--status-flood]
              [--serve PORT | PATH | tcp:PORT | inet:PORT] [--forward [ADDRESS:]PORT=HOST:PORT] [--rows PORT=HOST:PORT] [--udp HOST:PORT]
              [--serve-after MS] [--world] [--threads] [--copy]";

#[derive(Default)]
struct Options {
    /// The time between two ticks, in milliseconds.
    interval_ms: Option<u64>,
    /// Whether READY is never reported.
    no_ready: bool,
    ready_after_ms: Option<u64>,
    /// The time between two reports to the watchdog, in milliseconds.
    watchdog_ms: Option<u64>,
    /// Whether SIGTERM is ignored.
    ignore_term: bool,
    /// The time of the end that `end` names, in milliseconds after READY.
    after_ms: Option<u64>,
    end: Option<End>,
    /// The number of bytes of numbered lines to print.
    print: Option<u64>,
    /// The number of bytes without line ends to print, as fast as possible.
    fill: Option<u64>,
    /// The limit for `print`, in bytes a second.
    rate: Option<u64>,
    /// Whether lines are printed without end.
    flood: bool,
    /// The amount of memory to use, in MiB.
    eat_mb: Option<u64>,
    /// The amount to write to the file of `to`, in MiB.
    write_mb: Option<u64>,
    /// The file of `write`; `/written` when none is named.
    to: Option<String>,
    /// The file to which numbers are added without end, each synchronised to the disk before it is printed.
    record: Option<String>,
    /// The variables of the environment to print; `cpus`, `clock` and `memory` print values of the guest.
    show: Vec<String>,
    /// The files to print.
    cat: Vec<String>,
    /// The lines to print.
    say: Vec<String>,
    /// Whether `STATUS=` is sent 20,000 times in a second, without end.
    status_flood: bool,
    /// Whether the world is printed, as it is seen from inside.
    world: bool,
    /// Whether threads are started until the kernel refuses one.
    threads: bool,
    /// The address to listen on: a vsock port, a TCP port, or the path of a Unix socket.
    serve: Option<String>,
    /// A TCP port to listen on, and the place with which each client is connected: `7000=db:7000`.
    forward: Option<String>,
    /// A TCP port of a web service that keeps rows, and the place of its PostgreSQL: `8000=db:5432`.
    rows: Option<String>,
    /// The place to which a datagram is sent, whose answer is printed.
    udp: Option<String>,
    /// Whether standard input is copied to standard output, to its end.
    copy: bool,
    /// The time before it listens, in milliseconds.
    serve_after_ms: Option<u64>,
}

#[derive(Clone, Copy)]
enum End {
    Exit(i32),
    Die(i32),
    PanicKernel,
}

fn options() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("interval") => options.interval_ms = Some(parser.value()?.parse()?),
            Long("no-ready") => options.no_ready = true,
            Long("ready-after") => options.ready_after_ms = Some(parser.value()?.parse()?),
            Long("watchdog") => options.watchdog_ms = Some(parser.value()?.parse()?),
            Long("ignore-term") => options.ignore_term = true,
            Long("after") => options.after_ms = Some(parser.value()?.parse()?),
            Long("exit") => options.end = Some(End::Exit(parser.value()?.parse()?)),
            Long("die") => options.end = Some(End::Die(parser.value()?.parse()?)),
            Long("panic-kernel") => options.end = Some(End::PanicKernel),
            Long("print") => options.print = Some(parser.value()?.parse()?),
            Long("fill") => options.fill = Some(parser.value()?.parse()?),
            Long("rate") => options.rate = Some(parser.value()?.parse()?),
            Long("flood") => options.flood = true,
            Long("eat") => options.eat_mb = Some(parser.value()?.parse()?),
            Long("write") => options.write_mb = Some(parser.value()?.parse()?),
            Long("to") => options.to = Some(parser.value()?.string()?),
            Long("record") => options.record = Some(parser.value()?.string()?),
            Long("serve") => options.serve = Some(parser.value()?.string()?),
            Long("forward") => options.forward = Some(parser.value()?.string()?),
            Long("rows") => options.rows = Some(parser.value()?.string()?),
            Long("udp") => options.udp = Some(parser.value()?.string()?),
            Long("copy") => options.copy = true,
            Long("serve-after") => options.serve_after_ms = Some(parser.value()?.parse()?),
            Long("cat") => options.cat.push(parser.value()?.string()?),
            Long("say") => options.say.push(parser.value()?.string()?),
            Long("world") => options.world = true,
            Long("threads") => options.threads = true,
            Long("status-flood") => options.status_flood = true,
            Long("show") => options.show.push(parser.value()?.string()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

fn main() {
    let options = options().unwrap_or_else(|why| {
        let _ = writeln!(std::io::stderr(), "ticker: {why}\n{USAGE}");
        std::process::exit(64);
    });
    if options.ignore_term {
        let term: SigSet = [Signal::SIGTERM].into_iter().collect();
        term.thread_block().expect("SIGTERM can be blocked");
    } else {
        stop_on_term();
    }
    match (options.serve.clone(), options.serve_after_ms) {
        (Some(place), None) => serve(&place),
        (Some(place), Some(ms)) => drop(std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(ms));
            serve(&place);
        })),
        (None, _) => {}
    }
    if let Some(places) = &options.forward {
        forward(places);
    }
    if let Some(places) = &options.rows {
        rows::serve(places);
    }
    if let Some(place) = &options.udp {
        print_line(&format!("udp={}", ask(place).unwrap_or_else(|e| e.to_string())));
    }
    for name in &options.show {
        print_line(&format!("{name}={}", show(name)));
    }
    for path in &options.cat {
        print_line(&std::fs::read_to_string(path).unwrap_or_else(|e| e.to_string()));
    }
    if options.world {
        world::print();
    }
    for line in &options.say {
        print_line(line);
    }
    if options.copy {
        copy();
    }
    if let Some(bytes) = options.print {
        print_numbered(bytes, options.rate);
    }
    if let Some(bytes) = options.fill {
        // The bytes are written to the descriptor, because `Stdout` would search them for line ends. The reader may be
        // gone, so an error is ignored.
        let _ =
            std::io::stdout().as_fd().try_clone_to_owned().and_then(|fd| fill(&mut File::from(fd), bytes));
    }
    if options.threads {
        print_line(&threads());
    }
    if let Some(ms) = options.ready_after_ms {
        std::thread::sleep(Duration::from_millis(ms));
    }
    if !options.no_ready {
        notify("READY=1\nSTATUS=ticking");
    }
    if let Some(ms) = options.watchdog_ms {
        std::thread::spawn(move || {
            loop {
                notify("WATCHDOG=1");
                std::thread::sleep(Duration::from_millis(ms));
            }
        });
    }
    if options.status_flood {
        std::thread::spawn(flood_status);
    }
    if let Some(mb) = options.eat_mb {
        let mut eaten = Vec::new();
        for _ in 0..mb {
            eaten.push(vec![1_u8; 1 << 20]);
        }
        print_line(&format!("ate {} MiB", eaten.len()));
    }
    if let Some(mb) = options.write_mb {
        match write(options.to.as_deref().unwrap_or("/written"), mb) {
            Ok(()) => print_line(&format!("wrote {mb} MiB")),
            Err(e) => print_line(&format!("writing failed: {e}")),
        }
    }
    if let Some(path) = &options.record {
        let Err(e) = record(path);
        print_line(&format!("recording failed: {e}"));
    }
    if options.flood {
        print_numbered(u64::MAX, None);
    }
    if let Some(end) = options.end {
        std::thread::sleep(Duration::from_millis(options.after_ms.unwrap_or(0)));
        fail(end);
    }
    let interval = Duration::from_millis(options.interval_ms.unwrap_or(1000));
    for tick in 1_u64.. {
        std::thread::sleep(interval);
        print_line(&format!("tick {tick}"));
    }
}

/// Starts threads that do nothing, until the kernel refuses one. Returns how many there are, and the kernel's reason.
fn threads() -> String {
    for count in 1_u32.. {
        let idle = || std::thread::sleep(Duration::MAX);
        if let Err(e) = std::thread::Builder::new().stack_size(16 * 1024).spawn(idle) {
            return format!("threads={count} {}", e.kind());
        }
    }
    String::new()
}

/// Sends a datagram, and returns the text of the one that comes back.
fn ask(place: &str) -> std::io::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    socket.send_to(b"ask", place)?;
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Writes a file, and waits after each MiB until it is on the disk.
fn write(path: &str, mb: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    for _ in 0..mb {
        file.write_all(&vec![1; 1 << 20])?;
        file.sync_all()?;
    }
    Ok(())
}

/// Adds numbers to a file without end, and prints each after it is on the disk. It begins with the number after the
/// last whole one in the file, and prints that one as `found`.
fn record(path: &str) -> std::io::Result<std::convert::Infallible> {
    let before = std::fs::read_to_string(path).unwrap_or_default();
    let found: u64 = before.lines().rev().find_map(|line| line.parse().ok()).unwrap_or(0);
    print_line(&format!("found {found}"));
    let mut file = File::options().create(true).append(true).open(path)?;
    for number in found + 1.. {
        // A kill of the VMM may have left a part of a line.
        file.write_all(format!("\n{number:09}\n").as_bytes())?;
        file.sync_all()?;
        print_line(&format!("recorded {number}"));
    }
    unreachable!("there is always a next number")
}

/// Reports the stop on SIGTERM or SIGINT and exits with 0.
fn stop_on_term() {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    // The signals are blocked before any thread starts. Every thread inherits the mask, so only the thread below gets
    // the signals.
    signals.thread_block().expect("SIGTERM and SIGINT can be blocked");
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            notify("STOPPING=1");
            print_line("stopping");
            std::process::exit(0);
        }
    });
}

fn print_line(line: &str) {
    // The reader may be gone, so an error is ignored.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn notify(text: &str) {
    if let (Some(path), Ok(socket)) = (std::env::var_os("NOTIFY_SOCKET"), UnixDatagram::unbound()) {
        let _ = socket.send_to(text.as_bytes(), path);
    }
}

/// Sends a text 20,000 times in a second.
fn flood_status() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let socket = UnixDatagram::unbound().expect("a socket");
    for round in 0_u64.. {
        for step in 0..20 {
            let _ = socket.send_to(format!("STATUS=step {}", round * 20 + step).as_bytes(), &path);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The number by which a client asks the daemon to read all that it sends.
const SWALLOW: u64 = u64::MAX - 1;

/// Listens on a vsock port, on a TCP port of every address (`tcp:PORT`; `inet:PORT` answers datagrams with the same, too), or on a Unix socket with this path. A client sends a number of eight bytes, little endian:
/// 0 asks for an echo of all following bytes, [`SWALLOW`] to read them all and to answer with one byte after the last one,
/// another number for that number of bytes.
fn serve(place: &str) {
    if let Some(port) = place.strip_prefix("tcp:").or_else(|| place.strip_prefix("inet:")) {
        let port: u16 = port.parse().expect("a port");
        if place.starts_with("inet:") {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a free port");
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            });
        }
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a free port");
        std::thread::spawn(move || listener.incoming().flatten().for_each(answer_apart));
    } else if let Ok(port) = place.parse() {
        let listener = vsock::VsockListener::bind_with_cid_port(vsock::VMADDR_CID_ANY, port);
        let listener = listener.expect("a free port");
        std::thread::spawn(move || listener.incoming().flatten().for_each(answer_apart));
    } else {
        let listener = std::os::unix::net::UnixListener::bind(place).expect("a free path");
        std::thread::spawn(move || listener.incoming().flatten().for_each(answer_apart));
    }
}

/// Connects each client of a TCP port, which is one of 127.0.0.1 unless an address stands before it, with a place. A client whose place cannot be dialled is told why on the console, and
/// is closed.
fn forward(places: &str) {
    let (own, place) = places.split_once('=').expect("PORT=HOST:PORT");
    let own = own.parse::<SocketAddr>().or_else(|_| format!("127.0.0.1:{own}").parse()).expect("a port");
    let place = place.to_owned();
    let listener = TcpListener::bind(own).expect("a free port");
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let place = place.clone();
            std::thread::spawn(move || match TcpStream::connect(&place) {
                Ok(server) => carry(&client, &server),
                Err(e) => print_line(&format!("cannot dial {place}: {e}")),
            });
        }
    });
}

/// Carries bytes both ways, to the end of both directions. A reset of one side ends all.
fn carry(client: &TcpStream, server: &TcpStream) {
    let one_way = |mut from: &TcpStream, mut to: &TcpStream| {
        if std::io::copy(&mut from, &mut to).is_ok() {
            let _ = to.shutdown(Shutdown::Write);
        } else {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| one_way(client, server));
        one_way(server, client);
    });
}

fn answer_apart(client: impl Read + Write + Send + 'static) {
    std::thread::spawn(move || answer(client));
}

fn answer(mut client: impl Read + Write) -> std::io::Result<()> {
    let mut count = [0; 8];
    client.read_exact(&mut count)?;
    let count = u64::from_le_bytes(count);
    if count != 0 && count != SWALLOW {
        return fill(&mut client, count);
    }
    let mut buffer = vec![0; 64 * 1024];
    if count == SWALLOW {
        while client.read(&mut buffer)? > 0 {}
        return client.write_all(&[0]);
    }
    loop {
        let n = client.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        client.write_all(&buffer[..n])?;
    }
}

/// Writes this many bytes, as fast as the reader takes them.
fn fill(to: &mut impl Write, bytes: u64) -> std::io::Result<()> {
    let block = vec![b'x'; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        to.write_all(&block[..n])?;
        left -= n as u64;
    }
    Ok(())
}

/// The number of lines that are printed at once.
const PIECE: u64 = 1024;

/// Prints numbered lines of 64 bytes, so that a test can name a lost line. `rate` limits the bytes a second, also after a
/// time in which this program could not run: nothing is caught up.
fn print_numbered(bytes: u64, rate: Option<u64>) {
    // Standard output stays unlocked, because the thread that stops the program prints, too.
    let mut out = std::io::BufWriter::with_capacity(64 * 1024, std::io::stdout());
    let pause = rate.map(|rate| Duration::from_secs_f64((PIECE * 64) as f64 / rate.max(1) as f64));
    let mut printed_at = Instant::now();
    let mut text = [b'0'; 64];
    text[63] = b'\n';
    for line in 0..bytes / 64 {
        if line % PIECE == 0
            && let Some(pause) = pause
        {
            std::thread::sleep(pause.saturating_sub(printed_at.elapsed()));
            printed_at = Instant::now();
        }
        if out.write_all(&text).is_err() {
            return;
        }
        count_up(&mut text[..63]);
    }
    let _ = out.flush();
}

/// Adds one to a number in decimal digits. Formatting each number would take longer than printing it.
fn count_up(digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
}

/// Copies standard input to standard output. The descriptors are used themselves: `Stdout` would search for line ends.
fn copy() {
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
    let copied = own(std::io::stdin().as_fd())
        .and_then(|mut from| std::io::copy(&mut from, &mut own(std::io::stdout().as_fd())?));
    if let Err(e) = copied {
        let _ = writeln!(std::io::stderr(), "ticker: {e}");
    }
}

fn show(name: &str) -> String {
    let file = |path| std::fs::read_to_string(path).unwrap_or_default();
    match name {
        "cpus" => std::thread::available_parallelism().map_or(0, usize::from).to_string(),
        "clock" => SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis()).to_string(),
        "memory" => file("/proc/meminfo").lines().next().unwrap_or_default().to_owned(),
        name => std::env::var(name).unwrap_or_default(),
    }
}

fn fail(end: End) -> ! {
    match end {
        End::Exit(code) => std::process::exit(code),
        End::Die(number) => {
            let signal = Signal::try_from(number).expect("a signal's number");
            // The signal is sent twice: the first SIGSEGV reaches the stack-overflow check of Rust's runtime, which
            // only removes its own handler.
            let _ = nix::sys::signal::raise(signal);
            let _ = nix::sys::signal::raise(signal);
            panic!("signal {number} did not end the process")
        }
        End::PanicKernel => {
            let _ = std::fs::write("/proc/sys/kernel/sysrq", "1");
            let written = std::fs::write("/proc/sysrq-trigger", "c");
            panic!("the kernel did not panic: {written:?}")
        }
    }
}
