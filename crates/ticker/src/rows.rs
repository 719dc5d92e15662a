//! A web service that keeps rows in PostgreSQL. `POST /7` adds the row 7, and is answered with 201 when the database has
//! committed it; `GET /` is answered with all rows, a line each. A database that ends is waited for, and asked again: a row
//! that is there already is no mistake.
//!
//! It speaks as much of PostgreSQL's protocol 3.0 as a user without a password needs for simple queries.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The pause after a database was there and refused, as it does while it reads its files after a start.
const PAUSE: Duration = Duration::from_millis(20);

/// The longest message of a database that is read.
const MESSAGE_CAP: usize = 1 << 20;

/// Listens on a TCP port of the loopback interface, for a database at a place: `8000=db:5432`.
pub(crate) fn serve(places: &str) {
    let (port, place) = places.split_once('=').expect("PORT=HOST:PORT");
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse().expect("a port"))).expect("a free port");
    let pool = Arc::new(Pool { place: place.to_owned(), idle: Mutex::new(Vec::new()) });
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let pool = Arc::clone(&pool);
            // A client that is gone wants no answer.
            std::thread::spawn(move || drop(answer(&client, &pool)));
        }
    });
}

/// Reads one request, and answers it.
fn answer(client: &TcpStream, pool: &Pool) -> io::Result<()> {
    let mut head = BufReader::new(client).lines();
    let first = head.next().ok_or(ErrorKind::UnexpectedEof)??;
    for line in head {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = first.split(' ');
    let number = |path: &str| path.strip_prefix('/').and_then(|number| number.parse::<u64>().ok());
    let (status, body) = match (words.next(), words.next().map(|path| (path, number(path)))) {
        (Some("POST"), Some((_, Some(number)))) => {
            pool.ask(&format!("INSERT INTO rows VALUES ({number}) ON CONFLICT DO NOTHING"));
            ("201 Created", String::new())
        }
        (Some("GET"), Some(("/", _))) => ("200 OK", pool.ask("SELECT n FROM rows ORDER BY n")),
        _ => ("404 Not Found", String::new()),
    };
    let length = body.len();
    write!(&mut &*client, "HTTP/1.0 {status}\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// The connections to a database that are not in use.
struct Pool {
    place: String,
    idle: Mutex<Vec<Database>>,
}

impl Pool {
    /// Puts a query to the database until it is answered. Returns the first column of the answer, a line for each row.
    fn ask(&self, query: &str) -> String {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let asked = idle.map_or_else(|| Database::open(&self.place), Ok).and_then(|mut database| {
                let answer = database.query(query)?;
                Ok((database, answer))
            });
            match asked {
                Ok((database, answer)) => {
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(database);
                    return answer;
                }
                Err(why) => {
                    super::print_line(&format!("database: {why}"));
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }
}

/// A connection to a database.
struct Database(BufReader<TcpStream>);

impl Database {
    fn open(place: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(place)?;
        stream.set_nodelay(true)?;
        let mut database = Self(BufReader::new(stream));
        let words = b"\x00\x03\x00\x00user\0postgres\0database\0postgres\0\0";
        database.send(&[], words)?;
        database.answer()?;
        database.query("CREATE TABLE IF NOT EXISTS rows (n bigint PRIMARY KEY)")?;
        Ok(database)
    }

    fn query(&mut self, text: &str) -> io::Result<String> {
        self.send(b"Q", &[text.as_bytes(), b"\0"].concat())?;
        self.answer()
    }

    /// Sends a message: its kind, its length with the length itself, and its words.
    fn send(&mut self, kind: &[u8], words: &[u8]) -> io::Result<()> {
        let length = u32::try_from(words.len() + 4).map_err(io::Error::other)?;
        self.0.get_mut().write_all(&[kind, &length.to_be_bytes(), words].concat())
    }

    /// Reads messages until the database is ready for a query.
    fn answer(&mut self) -> io::Result<String> {
        let (mut rows, mut error) = (String::new(), None::<String>);
        loop {
            let (kind, words) = match (self.message(), &error) {
                (Ok(message), _) => message,
                (Err(_), Some(error)) => return Err(io::Error::other(error.clone())),
                (Err(e), None) => return Err(e),
            };
            match kind {
                // A row: the number of columns, then for each its length and its text.
                b'D' => {
                    let column = words.get(6..).unwrap_or_default();
                    rows.push_str(&String::from_utf8_lossy(column));
                    rows.push('\n');
                }
                // An error ends the query. A fatal one ends the connection, so that the next message cannot be read.
                b'E' => error = Some(String::from_utf8_lossy(&words).replace('\0', " ")),
                b'Z' => return error.map_or(Ok(rows), |error| Err(io::Error::other(error))),
                _ => {}
            }
        }
    }

    fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.0.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !(4..MESSAGE_CAP).contains(&length) {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut words = vec![0; length - 4];
        self.0.read_exact(&mut words)?;
        Ok((head[0], words))
    }
}
