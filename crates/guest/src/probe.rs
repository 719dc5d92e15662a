//! Looks whether the daemon is well, as one of its clients would: connects to its port, or asks it over HTTP.
//!
//! The daemon may answer slowly, without an end, or with nonsense. So a probe has one deadline for all that it does, and
//! reads a bounded number of bytes.

mod answer;

use crate::tcp;
use answer::{Answer, Head};
use pepita_wire::agent::{Probe, ProbeResult};
use pepita_wire::probe::{Check, HttpPlace};
use std::io::{self, ErrorKind as Io, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

/// The default time limit of a probe.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest time limit: each probe under way has a thread.
const LONGEST: Duration = Duration::from_secs(3600);

/// The time for the body of an answer that says that the daemon is not well. The status is known by then, and a server
/// may leave its connection open.
const BODY: Duration = Duration::from_millis(500);

/// Makes a probe.
pub(crate) fn run(probe: &Probe) -> ProbeResult {
    let limit = match probe.timeout_ms {
        0 => DEFAULT_TIMEOUT,
        ms => Duration::from_millis(ms).min(LONGEST),
    };
    let until = Instant::now() + limit;
    let outcome = match &probe.check {
        Check::Tcp(port) => port_opens(*port, until),
        Check::Http(place) => get(place, until),
    };
    match outcome {
        Ok(output) => ProbeResult { healthy: true, output },
        Err(output) => ProbeResult { healthy: false, output },
    }
}

fn port_opens(port: u16, until: Instant) -> Result<String, String> {
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let stream = left(until).and_then(|left| tcp::connect(address, left));
    stream.map(|_| format!("{address} accepts connections")).map_err(|e| format!("{address}: {}", told(&e)))
}

/// Sends a GET request, and reads the answer as far as it is needed.
fn get(place: &HttpPlace, until: Instant) -> Result<String, String> {
    let failed = |e: io::Error| format!("{}: {}", place.address(), told(&e));
    let mut stream = left(until).and_then(|left| tcp::connect(place.address(), left)).map_err(failed)?;
    left(until)
        .and_then(|left| stream.set_write_timeout(Some(left)))
        .and_then(|()| stream.write_all(place.request().as_bytes()))
        .map_err(failed)?;
    let mut answer = Answer::default();
    loop {
        match answer.head() {
            Head::Status { code: 200..=399, line } => return Ok(line),
            Head::Status { .. } => break,
            Head::NotHttp => return Err(format!("{}: the answer is not HTTP", place.address())),
            Head::Incomplete => {}
        }
        if read(&mut stream, &mut answer, until).map_err(failed)? == 0 {
            return Err(format!("{}: closed without an answer", place.address()));
        }
    }
    let until = until.min(Instant::now() + BODY);
    // The rest of the answer only explains its status.
    while matches!(read(&mut stream, &mut answer, until), Ok(n) if n > 0) {}
    Err(answer.in_words())
}

/// Reads once. Returns the number of bytes that were taken in; 0 at the end, or when the answer is as long as it may be.
fn read(stream: &mut TcpStream, answer: &mut Answer, until: Instant) -> io::Result<usize> {
    let mut buffer = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut buffer) {
            Ok(n) => return Ok(answer.push(&buffer[..n])),
            Err(e) if e.kind() == Io::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Returns the time that is left, which is longer than zero.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(Io::TimedOut.into()) } else { Ok(left) }
}

/// Returns the words for an error, without its number.
fn told(error: &io::Error) -> String {
    match error.kind() {
        // A read that has waited for long enough has one of these.
        Io::WouldBlock | Io::TimedOut => "no answer in time".into(),
        Io::ConnectionRefused => "connection refused".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// Serves one connection with this answer, after the request. The connection stays open until the client hangs up.
    fn serve(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let n = stream.read(&mut request).expect("a request");
            assert!(request[..n].starts_with(b"GET /healthz HTTP/1.1\r\n"));
            stream.write_all(answer).expect("written");
            // The end of the client.
            let _ = stream.read(&mut request);
        });
        port
    }

    fn ask(port: u16, timeout_ms: u64) -> ProbeResult {
        let check = Check::Http(format!("{port}/healthz").parse().expect("a place"));
        run(&Probe { check, timeout_ms })
    }

    /// Returns a port that nobody listens on.
    fn closed() -> u16 {
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
    }

    #[test]
    fn a_port_is_well_when_it_accepts_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        assert!(run(&Probe { check: Check::Tcp(port), timeout_ms: 5000 }).healthy);
        let port = closed();
        let result = run(&Probe { check: Check::Tcp(port), timeout_ms: 5000 });
        assert_eq!((result.healthy, result.output), (false, format!("127.0.0.1:{port}: connection refused")));
    }

    #[test]
    fn the_status_decides_and_the_body_explains() {
        let ok = ask(serve(b"HTTP/1.1 204 No Content\r\n\r\n"), 5000);
        assert_eq!((ok.healthy, ok.output.as_str()), (true, "HTTP 204 No Content"));
        let moved = ask(serve(b"HTTP/1.0 302 Found\r\nLocation: /x\r\n\r\n"), 5000);
        assert!(moved.healthy, "{moved:?}");
        let bad = ask(serve(b"HTTP/1.1 503 Service Unavailable\r\n\r\nno database\n"), 5000);
        assert_eq!((bad.healthy, bad.output.as_str()), (false, "HTTP 503 Service Unavailable: no database"));
    }

    #[test]
    fn what_is_not_an_answer_is_told() {
        let result = ask(serve(b"+OK redis\r\n"), 5000);
        assert!(!result.healthy && result.output.ends_with("the answer is not HTTP"), "{result:?}");
        let silent = ask(serve(b""), 50);
        assert!(!silent.healthy && silent.output.ends_with("no answer in time"), "{silent:?}");
        let refused = ask(closed(), 5000);
        assert!(!refused.healthy && refused.output.ends_with("connection refused"), "{refused:?}");
    }
}
