//! Clients of a published port, which measure how long they wait.

use crate::PATIENCE;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The pause of a client between two requests, and after a refused connection.
const PAUSE: Duration = Duration::from_millis(1);

/// What a client has met.
#[derive(Default)]
pub(crate) struct Met {
    /// The time from the beginning of each request to its answer, with all that had to be made again for it.
    pub(crate) waits: Vec<Duration>,
    /// The connections that were refused.
    pub(crate) refused: usize,
    /// The connections that ended without an answer, with their VM.
    pub(crate) broken: usize,
}

impl Met {
    pub(crate) fn longest(&self) -> Duration {
        self.waits.iter().max().copied().unwrap_or_default()
    }
}

/// A client that asks again and again. A request that is not answered is repeated, as every client does.
pub(crate) struct Client {
    is_over: Arc<AtomicBool>,
    met: Arc<Mutex<Met>>,
    thread: JoinHandle<()>,
}

impl Client {
    pub(crate) fn start(mut ask: impl FnMut() -> Result<()> + Send + 'static) -> Self {
        let (is_over, met) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Met::default())));
        let (over, told) = (Arc::clone(&is_over), Arc::clone(&met));
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                while let Err(e) = ask() {
                    let mut met = told.lock().unwrap_or_else(PoisonError::into_inner);
                    match e.kind() {
                        ErrorKind::ConnectionRefused => met.refused += 1,
                        _ => met.broken += 1,
                    }
                    drop(met);
                    assert!(began.elapsed() < PATIENCE, "no answer: {e}");
                    std::thread::sleep(PAUSE);
                }
                told.lock().unwrap_or_else(PoisonError::into_inner).waits.push(began.elapsed());
                std::thread::sleep(PAUSE);
            }
        });
        Self { is_over, met, thread }
    }

    /// Returns what the client has met since the last call.
    pub(crate) fn met(&self) -> Met {
        std::mem::take(&mut self.met.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the client after its request under way, and returns what it has met since the last call.
    pub(crate) async fn end(self) -> Met {
        self.is_over.store(true, Ordering::Relaxed);
        tokio::task::spawn_blocking(move || self.thread.join()).await.expect("no panic").expect("no panic");
        std::mem::take(&mut self.met.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Returns a connection to the echo of a ticker.
pub(crate) fn dial(port: u16) -> Result<TcpStream> {
    let mut stream = connect(port)?;
    stream.write_all(&0_u64.to_le_bytes())?;
    Ok(stream)
}

/// Sends a byte, and reads it back.
pub(crate) fn echo(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

/// Returns requests that each make a connection to a ticker.
pub(crate) fn connections(port: u16) -> impl FnMut() -> Result<()> + Send {
    move || echo(&mut dial(port)?)
}

/// Returns requests over one connection to a ticker.
pub(crate) fn trips(port: u16) -> impl FnMut() -> Result<()> + Send {
    let mut stream = None;
    move || match &mut stream {
        Some(stream) => echo(stream),
        none => echo(none.insert(dial(port)?)),
    }
}

/// Returns writes to a redis, over one connection as long as it lasts.
pub(crate) fn writes(port: u16) -> impl FnMut() -> Result<()> + Send {
    let (mut connection, mut number) = (None, 0_u64);
    move || {
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => connect(port)?,
        };
        stream.write_all(format!("SET write:{number} {number}\r\n").as_bytes())?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        if answer != *b"+OK\r\n" {
            // Such as `-LOADING`. The connection, which has more to read, is given up.
            return Err(Error::other(String::from_utf8_lossy(&answer).into_owned()));
        }
        number += 1;
        connection = Some(stream);
        Ok(())
    }
}
