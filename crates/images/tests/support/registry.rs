//! Registries on loopback: Debian's docker-registry, and one that does what no honest registry does.

use super::{Image, tool};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Debian's docker-registry. Dropping it ends it.
pub(crate) struct Registry {
    child: Child,
    pub(crate) host: String,
}

impl Registry {
    pub(crate) fn start(dir: &Path) -> Self {
        // The registry says on which port it listens.
        let config = format!(
            "version: 0.1\nlog: {{ level: info }}\nstorage: {{ filesystem: {{ rootdirectory: {:?} }} }}\n\
             http: {{ addr: \"127.0.0.1:0\" }}\n",
            dir.join("registry")
        );
        let file = dir.join("registry.yml");
        std::fs::write(&file, config).expect("written");
        let mut child = tool("docker-registry")
            .arg("serve")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry runs");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("listening on ")).expect("it says where it listens");
        let host = line
            .split("listening on ")
            .nth(1)
            .and_then(|rest| rest.split(['"', ' ']).next())
            .expect("an address");
        let host = host.to_owned();
        // Its log must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, host }
    }

    /// Pushes an image of an OCI layout with skopeo.
    pub(crate) fn push(&self, source: &str, name: &str) {
        run(tool("skopeo")
            .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"])
            .args([source, &format!("docker://{}/{name}", self.host)]));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a tool that has to succeed.
pub(crate) fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("the tool runs");
    assert!(output.status.success(), "{command:?}: {}", super::text(&output.stderr));
}

/// What a bad registry does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Answers as it should.
    Good,
    /// Answers with this status and body.
    Status(u16, &'static str),
    /// Answers 401 with this challenge. `HOST` in it stands for the registry.
    Challenge(&'static str),
    /// Leads to this address. `HOST` in it stands for the registry.
    Redirect(String),
    /// Sends the body byte by byte.
    Drip,
    /// Says nothing more.
    Stall,
    /// Sends so many bytes of the body and ends the connection.
    BreakOff(usize),
    /// Sends other bytes of the same number.
    Lie,
    /// Answers with this status, and more and more bytes.
    Endless(u16),
}

/// A registry that asks a function what to do with each request: its number, its path, and its header.
pub(crate) struct Bad {
    pub(crate) host: String,
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
}

impl Bad {
    pub(crate) fn serve(
        image: &Image,
        answer: impl Fn(usize, &str, &str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, blobs) = (Arc::clone(&requests), image.blobs.iter().cloned().collect::<BTreeMap<_, _>>());
        let (manifest, blobs) = (image.manifest.clone(), Arc::new(blobs));
        let (answer, count) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, count, seen) = (Arc::clone(&answer), Arc::clone(&count), Arc::clone(&seen));
                let (manifest, blobs) = (manifest.clone(), Arc::clone(&blobs));
                std::thread::spawn(move || {
                    while let Some((path, header)) = request(&stream) {
                        seen.lock().expect("no panic").push(path.clone());
                        let digest = path.rsplit('/').next().unwrap_or_default();
                        let body = match path.as_str() {
                            "/v2/" => Some(Vec::new()),
                            path if path.contains("/manifests/") => Some(manifest.clone()),
                            _ => blobs.get(digest).cloned(),
                        };
                        let does = answer(count.fetch_add(1, Ordering::Relaxed), &path, &header);
                        if reply(&stream, body, &header, does).is_none() {
                            return;
                        }
                    }
                });
            }
        });
        Self { host, requests }
    }
}

/// Reads a request. Returns its path and its header.
fn request(stream: &TcpStream) -> Option<(String, String)> {
    let (mut reader, mut header) = (BufReader::new(stream), String::new());
    while !header.ends_with("\r\n\r\n") {
        (reader.read_line(&mut header).ok()? > 0).then_some(())?;
    }
    Some((header.split(' ').nth(1)?.to_owned(), header))
}

/// Answers a request. Returns `None` when the connection is over.
fn reply(mut stream: &TcpStream, body: Option<Vec<u8>>, header: &str, does: Answer) -> Option<()> {
    let send = |mut stream: &TcpStream, status: u16, length: usize, body: &[u8]| {
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(&[head.as_bytes(), body].concat()).ok()
    };
    let body = match (body, &does) {
        (Some(body), _) => body,
        (None, Answer::Good) => return send(stream, 404, 0, b""),
        (None, _) => Vec::new(),
    };
    let from = header
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let from: usize = from.and_then(|range| range.split('-').next()?.parse().ok()).unwrap_or(0);
    let (status, rest) = if from > 0 { (206, &body[from.min(body.len())..]) } else { (200, &body[..]) };
    match does {
        Answer::Good => send(stream, status, rest.len(), rest),
        Answer::Status(status, text) => send(stream, status, text.len(), text.as_bytes()),
        Answer::Challenge(challenge) => {
            let challenge = challenge.replace("HOST", &stream.local_addr().ok()?.to_string());
            let head =
                format!("HTTP/1.1 401 x\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).ok()
        }
        Answer::Redirect(to) => {
            let to = to.replace("HOST", &stream.local_addr().ok()?.to_string());
            let head = format!("HTTP/1.1 307 x\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).ok()
        }
        Answer::Drip => {
            send(stream, status, rest.len(), b"")?;
            for byte in rest {
                stream.write_all(&[*byte]).ok()?;
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Some(())
        }
        Answer::Stall => {
            // Until the other side gives up.
            let _ = stream.read(&mut [0]);
            None
        }
        Answer::BreakOff(bytes) => {
            send(stream, status, rest.len(), &rest[..bytes.min(rest.len())])?;
            let _ = stream.shutdown(std::net::Shutdown::Both);
            None
        }
        Answer::Lie => send(stream, status, rest.len(), &vec![b'x'; rest.len()]),
        Answer::Endless(status) => {
            let head = format!("HTTP/1.1 {status} x\r\nTransfer-Encoding: chunked\r\n\r\n");
            stream.write_all(head.as_bytes()).ok()?;
            let chunk = [b"10000\r\n".as_slice(), &vec![b'x'; 1 << 16], b"\r\n"].concat();
            while stream.write_all(&chunk).is_ok() {}
            None
        }
    }
}
