//! Writes to a redis without a pause until its standard input ends, then reads back every write that redis has
//! acknowledged. A connection that breaks is made again, and its write is repeated, as every client of redis does.
//!
//! `cargo run -p pepita-supervisors --example redis_writer 127.0.0.1:6379`; Ctrl-D ends it. The exit code is 1 when a
//! connection was refused or an acknowledged write is lost.

use std::error::Error;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A write that takes longer is shown.
const STALL: Duration = Duration::from_millis(500);

/// The pause after a refused connection.
const PAUSE: Duration = Duration::from_millis(10);

/// The number of writes that are read back at once.
const PIECE: u64 = 100;

/// A client of one redis, and what it has met.
struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
    connected: u32,
    refused: u32,
}

impl Client {
    /// Sends a command and returns the answer's first line, on a new connection when there is none.
    fn once(&mut self, command: &str) -> io::Result<String> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let stream = TcpStream::connect(self.address)?;
                stream.set_nodelay(true)?;
                self.connected += 1;
                none.insert(BufReader::new(stream))
            }
        };
        connection.get_mut().write_all(command.as_bytes())?;
        line(connection)
    }

    /// Sends a command as often as it takes to get an answer that is no error.
    fn until_answered(&mut self, command: &str) -> String {
        loop {
            match self.once(command) {
                // LOADING: redis reads its file after a start.
                Ok(answer) if answer.starts_with("-LOADING") => {}
                Ok(answer) => return answer,
                Err(e) => {
                    self.connection = None;
                    if e.kind() == ErrorKind::ConnectionRefused {
                        self.refused += 1;
                        std::thread::sleep(PAUSE);
                    }
                }
            }
        }
    }

    /// Returns how many of the writes from 1 to `last` redis does not have.
    fn missing(&mut self, last: u64) -> io::Result<u64> {
        self.until_answered("PING\r\n");
        let connection = self.connection.as_mut().ok_or(ErrorKind::NotConnected)?;
        let mut missing = 0;
        for first in (1..=last).step_by(PIECE as usize) {
            let piece = first..=last.min(first + PIECE - 1);
            let asked: String = piece.clone().map(|number| format!("GET write:{number}\r\n")).collect();
            connection.get_mut().write_all(asked.as_bytes())?;
            for number in piece {
                missing += u64::from(value(connection)? != Some(number.to_string()));
            }
        }
        Ok(missing)
    }
}

/// Reads a line without its end.
fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    if from.read_line(&mut text)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(text.trim_end().to_owned())
}

/// Reads a value as redis sends it: its length in a line, then the value; the length -1 is that of no value.
fn value(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let head = line(from)?;
    let length = head.strip_prefix('$').and_then(|length| length.parse::<i64>().ok());
    let Some(length) = length else { return Err(io::Error::other(head)) };
    let Ok(length) = u64::try_from(length) else { return Ok(None) };
    let mut text = String::new();
    from.take(length + 2).read_to_string(&mut text)?;
    Ok(Some(text.trim_end().to_owned()))
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: redis_writer ADDRESS:PORT")?.parse()?;
    let mut client = Client { address, connection: None, connected: 0, refused: 0 };
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        over.store(true, Ordering::Relaxed);
    });
    let mut out = io::stdout();
    let (mut written, mut longest) = (0, Duration::ZERO);
    while !is_over.load(Ordering::Relaxed) {
        let (number, since) = (written + 1, Instant::now());
        let answer = client.until_answered(&format!("SET write:{number} {number}\r\n"));
        if answer != "+OK" {
            return Err(format!("write {number}: {answer}").into());
        }
        written = number;
        let took = since.elapsed();
        longest = longest.max(took);
        if took > STALL {
            writeln!(out, "write {number} waited {} ms and was acknowledged", took.as_millis())?;
        }
    }
    let lost = client.missing(written)?;
    writeln!(
        out,
        "{:<28}{written:>8}\n{:<28}{:>8}\n{:<28}{:>8}\n{:<28}{lost:>8}\n{:<28}{:>8} ms",
        "writes acknowledged",
        "connections made",
        client.connected,
        "connections refused",
        client.refused,
        "acknowledged writes lost",
        "longest stall",
        longest.as_millis()
    )?;
    Ok(ExitCode::from(u8::from(client.refused > 0 || lost > 0 || written == 0)))
}
