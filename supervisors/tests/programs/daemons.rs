//! Daemons as people run them, under a supervisor: nginx, a web service and PostgreSQL in one group, each in its microVM, and
//! clients that meet no refusal and lose nothing, whoever is killed.

use crate::host::{Daemon, Host, PATIENCE, guest};
use crate::ports::{free_port, kill_vmm, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Returns PostgreSQL with a disk, the web service that keeps rows in it, and nginx before that, at a published port. The
/// service has no way but `reach` to the database, and nginx none but that to the service.
fn site(port: u16) -> String {
    let image = |name: &str| format!("image = \"oci:{}\"", guest("images").join(name).display());
    let vm = |name: &str, lines: &[&str]| {
        format!(
            "[[group.vm]]\nname = \"{name}\"\nrestart.policy = \"always\"\nhealth.interval = \"1s\"\n{}\n",
            lines.join("\n")
        )
    };
    let db = vm(
        "db",
        &[
            &image("postgres:15"),
            "memory_mb = 256",
            "start.ready = \"health\"",
            "health.tcp = 5432",
            "[[group.vm.disk]]",
            "name = \"cluster\"",
            "mount = \"/var/lib/postgresql\"",
        ],
    );
    let api = vm(
        "api",
        &["command = [\"/usr/bin/ticker\", \"--rows\", \"8000=db:5432\"]", "reach = [\"db:5432\"]"],
    );
    let publish = format!("publish = [\"127.0.0.1:{port}:80\"]");
    let web = vm(
        "web",
        &[
            &image("nginx:1"),
            "command = [\"-c\", \"/etc/nginx/proxy.conf\"]",
            "reach = [\"api:8000\"]",
            &publish,
            "start.ready = \"health\"",
            "health.tcp = 80",
            // Its QUIT waits for clients, and these wait for the database.
            "stop.signal = \"TERM\"",
        ],
    );
    format!("[[group]]\nname = \"site\"\nstrategy = \"rest_for_one\"\nintensity = 1000\n{db}{api}{web}")
}

/// Sends a request and returns the answer's status and body.
fn request(port: u16, words: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "{words} HTTP/1.0\r\nHost: site\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").ok_or(ErrorKind::UnexpectedEof)?;
    Ok((status.ok_or(ErrorKind::InvalidData)?, body.to_owned()))
}

/// What the clients have met.
#[derive(Default)]
struct Met {
    committed: Mutex<BTreeSet<u64>>,
    next: AtomicU64,
    refused: AtomicU64,
    repeated: AtomicU64,
    longest_ms: AtomicU64,
}

impl Met {
    /// Adds rows until it is over. A request that is broken off, or answered with an error of nginx, is made again.
    fn add_rows(&self, port: u16, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            let row = self.next.fetch_add(1, Ordering::Relaxed);
            let since = Instant::now();
            loop {
                match request(port, &format!("POST /{row}")) {
                    Ok((201, _)) => break,
                    Ok((status, _)) => assert!((502..=504).contains(&status), "row {row}: {status}"),
                    Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    Err(_) => {}
                }
                self.repeated.fetch_add(1, Ordering::Relaxed);
            }
            let took = u64::try_from(since.elapsed().as_millis()).expect("a short time");
            self.longest_ms.fetch_max(took, Ordering::Relaxed);
            self.committed.lock().expect("no client has failed").insert(row);
        }
    }

    fn count(&self) -> usize {
        self.committed.lock().expect("no client has failed").len()
    }

    /// Waits until more rows are committed, or a client is refused.
    fn await_more(&self, more: usize) {
        let (wanted, deadline) = (self.count() + more, Instant::now() + PATIENCE);
        while self.count() < wanted && self.refused.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < deadline, "no more rows after {}", self.count());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn web_incarnation(host: &Host) -> u64 {
    let status: Value = serde_json::from_str(&host.ctl_ok(&["status", "web", "--json"])).expect("JSON");
    let vms = status["groups"][0]["vms"].as_array().expect("VMs");
    let web = vms.iter().find(|vm| vm["name"] == "web").expect("a VM");
    web["incarnation"].as_u64().expect("a number")
}

#[test]
fn a_site_of_three_daemons_refuses_no_client_and_loses_no_row_whoever_is_killed() {
    let (port, data) = (free_port(), tempfile::tempdir().expect("a directory"));
    let host = Host::with_microvms(&site(port));
    let began = Instant::now();
    let start = || Daemon::start(host.pepitad(&["--json"]).env("PEPITA_DATA_DIR", data.path()));
    let wait = || host.ctl_ok(&["wait", "--timeout", &PATIENCE.as_secs().to_string()]);
    let mut daemon = start();
    wait();
    assert_eq!(request(port, "POST /0").expect("an answer").0, 201);
    println!("from the images to the first row: {:?}", began.elapsed());

    let (met, is_over) = (Met { next: 1.into(), ..Met::default() }, AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| met.add_rows(port, &is_over));
        }
        // The load ends also when a step fails.
        let _end = Over(&is_over);
        for vm in ["web", "api", "db"] {
            met.await_more(10);
            let incarnation = web_incarnation(&host);
            kill_vmm(&host, vm);
            // nginx comes back after whichever was killed: it is the last of the group.
            until("nginx is restarted", || web_incarnation(&host) > incarnation);
            wait();
        }
        met.await_more(10);
        daemon.kill();
        met.await_more(10);
        daemon = start();
        wait();
        met.await_more(10);
        kill_vmm(&host, "web");
        met.await_more(10);
    });
    assert_eq!(request(port, "GET /nothing").expect("an answer").0, 404);
    let (status, body) = request(port, "GET /").expect("an answer");
    assert_eq!(status, 200, "{body}");
    let kept: BTreeSet<u64> = body.lines().map(|line| line.parse().expect("a row")).collect();
    let committed = met.committed.into_inner().expect("no client has failed");
    let lost: Vec<&u64> = committed.difference(&kept).collect();
    println!(
        "{} rows, {} requests repeated, {} refused, longest stall {} ms",
        committed.len(),
        met.repeated.into_inner(),
        met.refused.load(Ordering::Relaxed),
        met.longest_ms.into_inner()
    );
    assert_eq!(met.refused.into_inner(), 0, "connections were refused");
    assert!(lost.is_empty(), "committed rows are lost: {lost:?}");
    daemon.stop();
    host.assert_nothing_left();
}

/// Ends the load when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
