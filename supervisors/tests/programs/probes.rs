//! Tests of probes from outside a daemon. The VMs are plain processes, whose agents reach ports of this host: the tests
//! themselves listen there in place of a daemon.

use crate::events::vm;
use crate::host::{Daemon, Host, ticker};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// Serves HTTP at a port. Each request gets the answer that is set at that moment.
struct Server {
    port: u16,
    answer: Arc<Mutex<&'static str>>,
}

impl Server {
    fn new(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let answer = Arc::new(Mutex::new(answer));
        let current = Arc::clone(&answer);
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client");
                let mut request = [0; 1024];
                let n = stream.read(&mut request).unwrap_or_default();
                assert!(request[..n].starts_with(b"GET /healthz HTTP/1.1\r\n"));
                let answer = *current.lock().expect("no panic");
                // A probe may be gone before its answer.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { port, answer }
    }

    fn answers(&self, answer: &'static str) {
        *self.answer.lock().expect("no panic") = answer;
    }
}

const FINE: &str = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\nno \x1b[31mdatabase\n";

/// What an event says of that answer.
const FOUND: &str = "HTTP 503 Service Unavailable: no \\x1b[31mdatabase";

/// Returns a group with the VM `a`, whose daemon listens nowhere itself and never says that it is ready.
fn asked(keys: &str) -> String {
    let health = "health.interval = \"100ms\"\nhealth.retries = 2\nhealth.stop_timeout = \"0s\"\n";
    format!(
        "[[group]]\nname = \"web\"\n[[group.vm]]\nname = \"a\"\ncommand = [\"/bin/sleep\", \"1000\"]\n\
         start.ready = \"health\"\n{health}{keys}\n"
    )
}

#[test]
fn a_vm_is_ready_when_it_answers_over_http_and_the_event_of_a_bad_answer_has_its_words() {
    // semantics 1.27, 1.28
    let server = Server::new(BROKEN);
    let place = format!("health.http = \"127.0.0.1:{}/healthz\"", server.port);
    let host = Host::new("", &asked(&place));
    let mut daemon = host.start();
    daemon.until_event(vm("a", 1, "running"));
    // The first probe has failed when the status has it, and no event tells that.
    let status = until_status(&host, &daemon, FOUND);
    assert!(status.contains("running"), "{status}");
    server.answers(FINE);
    daemon.until_event(vm("a", 1, "ready"));
    let status = until_status(&host, &daemon, "a probe: good: HTTP 204 No Content");
    assert!(status.contains("ready"), "{status}");
    server.answers(BROKEN);
    let unhealthy = daemon.until_event(vm("a", 1, "unhealthy"));
    assert_eq!(unhealthy["probe"], FOUND, "{}", daemon.story());
    let down = daemon.until_event(vm("a", 1, "backoff"));
    assert_eq!((&down["ending"]["kind"], &down["probe"]), (&"unhealthy".into(), &FOUND.into()));
    let text = down["text"].as_str().unwrap_or_default();
    assert!(text.contains("last probe: HTTP 503"), "{text}");
    server.answers(FINE);
    let again = daemon.until_event(vm("a", 2, "ready"));
    assert!(again["probe"].is_null(), "{again}");
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_port_is_probed_and_a_change_of_the_probe_applies_to_the_running_vm() {
    // semantics 1.10, 1.27
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let keys = |probe: &str| {
        let health = "health.interval = \"100ms\"\nhealth.retries = 2\nhealth.on_unhealthy = \"report\"\n";
        let daemon = ticker("a", &["--serve", &format!("tcp:{port}")]);
        format!("[[group]]\nname = \"web\"\n{daemon}start.ready = \"health\"\n{health}{probe}\n")
    };
    let host = Host::new("", &keys(&format!("health.tcp = {port}")));
    let mut daemon = host.start();
    daemon.until_event(vm("a", 1, "ready"));
    let good = format!("a probe: good: 127.0.0.1:{port} accepts connections");
    until_status(&host, &daemon, &good);
    // The daemon echoes, and does not speak HTTP.
    host.configure("", &keys(&format!("health.http = \"{port}/healthz\"")));
    host.ctl_ok(&["reload"]);
    let unhealthy = daemon.until_event(vm("a", 1, "unhealthy"));
    let found = unhealthy["probe"].as_str().unwrap_or_default();
    assert!(found.ends_with("the answer is not HTTP"), "{}", daemon.story());
    host.configure("", &keys(&format!("health.tcp = {port}")));
    host.ctl_ok(&["reload"]);
    daemon.until_event(vm("a", 1, "ready"));
    daemon.stop();
    host.assert_nothing_left();
}

/// Returns the status of the VM `a` as soon as it contains this.
fn until_status(host: &Host, daemon: &Daemon, text: &str) -> String {
    let deadline = std::time::Instant::now() + crate::host::PATIENCE;
    loop {
        let status = host.ctl_ok(&["status", "a"]);
        if status.contains(text) {
            return status;
        }
        assert!(std::time::Instant::now() < deadline, "not in time: {text}\n{status}\n{}", daemon.story());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
