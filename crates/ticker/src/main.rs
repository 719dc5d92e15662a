//! An example daemon: says READY, prints a tick, stops when told. Its options make it fail in every way that a test needs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant, SystemTime};

const USAGE: &str = "usage: ticker [--interval MS] [--no-ready] [--ready-after MS] [--watchdog MS] [--ignore-term] \
    [--after MS] [--exit CODE | --die SIGNAL | --panic-kernel] [--print BYTES] [--fill BYTES] [--rate BYTES_PER_SECOND] [--flood] [--eat MB] [--show NAME] [--serve PORT | PATH]";

#[derive(Default)]
struct Options {
    interval: Option<u64>,
    no_ready: bool,
    ready_after: Option<u64>,
    watchdog: Option<u64>,
    ignore_term: bool,
    after: Option<u64>,
    end: Option<End>,
    print: Option<u64>,
    fill: Option<u64>,
    rate: Option<u64>,
    flood: bool,
    eat: Option<u64>,
    show: Vec<String>,
    serve: Option<String>,
}

#[derive(Clone, Copy)]
enum End {
    Exit(i32),
    Die(i32),
    PanicKernel,
}

fn options() -> Option<Options> {
    let mut options = Options::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next()?.parse::<u64>().ok();
        match arg.as_str() {
            "--interval" => options.interval = Some(number()?),
            "--no-ready" => options.no_ready = true,
            "--ready-after" => options.ready_after = Some(number()?),
            "--watchdog" => options.watchdog = Some(number()?),
            "--ignore-term" => options.ignore_term = true,
            "--after" => options.after = Some(number()?),
            "--exit" => options.end = Some(End::Exit(i32::try_from(number()?).ok()?)),
            "--die" => options.end = Some(End::Die(i32::try_from(number()?).ok()?)),
            "--panic-kernel" => options.end = Some(End::PanicKernel),
            "--print" => options.print = Some(number()?),
            "--fill" => options.fill = Some(number()?),
            "--rate" => options.rate = Some(number()?),
            "--flood" => options.flood = true,
            "--eat" => options.eat = Some(number()?),
            "--serve" => options.serve = Some(args.next()?),
            "--show" => options.show.push(args.next()?),
            _ => return None,
        }
    }
    Some(options)
}

fn main() {
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        std::process::exit(64);
    };
    if let Some(signals) =
        options.ignore_term.then(|| [nix::sys::signal::Signal::SIGTERM].into_iter().collect())
    {
        let signals: nix::sys::signal::SigSet = signals;
        signals.thread_block().expect("a signal that can be blocked");
    } else {
        stop_on_term();
    }
    if let Some(place) = &options.serve {
        serve(place);
    }
    for name in &options.show {
        say(&format!("{name}={}", show(name)));
    }
    if let Some(bytes) = options.print {
        print(bytes, options.rate);
    }
    if let Some(bytes) = options.fill {
        // The descriptor itself: `Stdout` would look for line ends. Nobody may be reading any more.
        let _ =
            std::io::stdout().as_fd().try_clone_to_owned().and_then(|fd| fill(&mut File::from(fd), bytes));
    }
    if let Some(ms) = options.ready_after {
        std::thread::sleep(Duration::from_millis(ms));
    }
    if !options.no_ready {
        notify("READY=1\nSTATUS=ticking");
    }
    if let Some(ms) = options.watchdog {
        std::thread::spawn(move || {
            loop {
                notify("WATCHDOG=1");
                std::thread::sleep(Duration::from_millis(ms));
            }
        });
    }
    if let Some(mb) = options.eat {
        let mut eaten = Vec::new();
        for _ in 0..mb {
            eaten.push(vec![1_u8; 1 << 20]);
        }
        say(&format!("ate {} MiB", eaten.len()));
    }
    if options.flood {
        print(u64::MAX, None);
    }
    if let Some(end) = options.end {
        std::thread::sleep(Duration::from_millis(options.after.unwrap_or(0)));
        fail(end);
    }
    let interval = Duration::from_millis(options.interval.unwrap_or(1000));
    for tick in 1_u64.. {
        std::thread::sleep(interval);
        say(&format!("tick {tick}"));
    }
}

/// SIGTERM: says so and exits with 0.
fn stop_on_term() {
    use nix::sys::signal::{SigSet, Signal};
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    // Before any thread, so that all have them blocked and one waits for them.
    signals.thread_block().expect("signals that can be blocked");
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            notify("STOPPING=1");
            say("stopping");
            std::process::exit(0);
        }
    });
}

fn say(line: &str) {
    // Nobody may be reading.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn notify(text: &str) {
    if let (Some(path), Ok(socket)) = (std::env::var_os("NOTIFY_SOCKET"), UnixDatagram::unbound()) {
        let _ = socket.send_to(text.as_bytes(), path);
    }
}

/// Listens on a vsock port, or on a Unix socket of this path. A client says eight bytes, little endian: 0 = echo what
/// comes, anything else = send me so many.
fn serve(place: &str) {
    if let Ok(port) = place.parse() {
        let listener = vsock::VsockListener::bind_with_cid_port(vsock::VMADDR_CID_ANY, port);
        let listener = listener.expect("a free port");
        std::thread::spawn(move || listener.incoming().flatten().for_each(answer_apart));
    } else {
        let listener = std::os::unix::net::UnixListener::bind(place).expect("a free path");
        std::thread::spawn(move || listener.incoming().flatten().for_each(answer_apart));
    }
}

fn answer_apart(client: impl Read + Write + Send + 'static) {
    std::thread::spawn(move || answer(client));
}

fn answer(mut client: impl Read + Write) -> std::io::Result<()> {
    let mut count = [0; 8];
    client.read_exact(&mut count)?;
    let count = u64::from_le_bytes(count);
    if count > 0 {
        return fill(&mut client, count);
    }
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = client.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        client.write_all(&buffer[..n])?;
    }
}

/// So many bytes, as fast as they are taken.
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

/// Numbered lines of 64 bytes, so that a lost one can be told; not faster than so many bytes a second.
fn print(bytes: u64, rate: Option<u64>) {
    // Not locked for good: the last words on SIGTERM go there, too.
    let mut out = std::io::BufWriter::with_capacity(64 * 1024, std::io::stdout());
    let began = Instant::now();
    let mut text = [b'0'; 64];
    text[63] = b'\n';
    for line in 0..bytes / 64 {
        if line % 1024 == 0
            && let Some(rate) = rate
        {
            let due = Duration::from_secs_f64((line * 64) as f64 / rate.max(1) as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        if out.write_all(&text).is_err() {
            return;
        }
        count_up(&mut text[..63]);
    }
    let _ = out.flush();
}

/// Adds one to a number in decimal digits: formatting each would be slower than what is to be flooded.
fn count_up(digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
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
            let signal = nix::sys::signal::Signal::try_from(number).expect("a signal's number");
            // Twice: the first SEGV ends in the runtime's stack-overflow check, which only takes its own handler off.
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
