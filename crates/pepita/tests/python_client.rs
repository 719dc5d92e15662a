//! Tests a client in Python: the description of the conversation is sufficient to implement it in another language.

mod host;

use host::{Host, beside, program, text};
use pepita_wire::Exit;
use pepita_wire::record::DaemonState;
use serde_json::{Value, json};
use std::process::Command;

/// Runs the client, which executes `command` in the guest. Returns the messages that the client received.
fn converse(host: &Host, name: &str, command: &[&str]) -> Value {
    let status = host.until(name, |status| status.daemon.state == DaemonState::Ready);
    let output = Command::new("python3")
        .arg(beside("client.py"))
        .arg(host.vm(name))
        .args([status.vsock.port.to_string(), status.incarnation.to_string()])
        .args(command)
        .output()
        .expect("python3 is installed");
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn check(host: &Host, name: &str, said: &Value) {
    assert_eq!((&said["hello"]["generation"], &said["hello"]["incarnation"]), (&json!(1), &json!(7)));
    assert!(said["hello"]["boot_id"].as_str().is_some_and(|id| !id.is_empty()), "{said}");
    assert_eq!((&said["ping"], &said["signal"]), (&json!({}), &json!({})));
    assert_eq!(said["status"]["ready"], true, "{said}");
    assert_eq!(said["exec"]["exit"], json!({ "code": 3 }), "{said}");
    assert_eq!(said["exec"]["timed_out"], false);
    assert!(said["exec"]["output"].as_str().is_some_and(|text| text.contains("hello=")), "{said}");
    assert_eq!(said["unknown"]["kind"], "unsupported");
    assert!(said["watch"]["seq"].as_u64().is_some_and(|seq| seq >= 2), "{said}");
    let events = said["events"].as_array().expect("events");
    let named: Vec<_> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert!(named.starts_with(&["started", "ready"]), "{named:?}");
    let numbers: Vec<_> = events.iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert!(numbers.is_sorted() && numbers.first() == Some(&1), "{numbers:?}");
    // An exit is reported again until it is acknowledged, and other events may come in between.
    match events.iter().find(|event| event["event"] == "exited") {
        Some(exited) => assert_eq!(exited["data"], json!({ "code": 0 })),
        // The guest ends after the first acknowledgement, which came from the monitor here.
        None => assert_eq!(said["hung_up"], true, "{said}"),
    }
    // The monitor receives the exit in any case.
    assert_eq!(host.exit(name).exit, Exit::code(0));
}

#[test]
fn a_client_in_python_talks_to_a_plain_process() {
    let host = Host::new();
    let ticker = program("ticker");
    let run = ["run", "--vmm", "process", "--name", "a", "--incarnation", "7", "--daemon", "--json", "--"];
    host.ok(&[&run[..], &[&ticker]].concat());
    let said = converse(&host, "a", &[&ticker, "--show", "hello", "--exit", "3"]);
    check(&host, "a", &said);
}

#[test]
fn a_client_in_python_talks_to_a_microvm() {
    let host = Host::new();
    host.microvm("a", &["--incarnation", "7"]);
    let said = converse(&host, "a", &["/usr/bin/ticker", "--show", "hello", "--exit", "3"]);
    check(&host, "a", &said);
}
