//! Tests of container images in microVMs: the redis of Debian, in an image that umoci has made.

mod host;

use host::{Form, Host, guest_file, kill};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// Returns a host with a data directory of its own, and the name of the image of redis.
fn host() -> (Host, tempfile::TempDir, String) {
    let data = tempfile::tempdir().expect("a directory");
    let host = Host::of(Form::Qemu).with("PEPITA_DATA_DIR", data.path());
    let layout = format!("oci:{}:7", guest_file("images/redis").display());
    (host, data, layout)
}

fn kernel() -> String {
    guest_file("vmlinuz").to_string_lossy().into_owned()
}

/// Waits until a VM has printed a line with these words.
fn await_line(host: &Host, vm: &str, words: &str) {
    let mut follow =
        host.command(&["logs", "--follow", vm]).stdout(Stdio::piped()).spawn().expect("pepita runs");
    let lines = BufReader::new(follow.stdout.take().expect("piped")).lines();
    let found = lines.map_while(Result::ok).any(|line| line.contains(words));
    let _ = follow.kill();
    let _ = follow.wait();
    assert!(found, "{vm} has ended without {words:?}");
}

#[test]
fn a_container_image_boots_as_its_user_in_its_directory_with_its_environment() {
    let (host, _data, image) = host();
    let script = "redis-server --daemonize yes --save '' >/dev/null; until redis-cli ping 2>/dev/null; do :; done; \
        id -u; pwd; echo $GREETING $OWN; cat /etc/removed 2>/dev/null || echo whiteout; echo x >/tmp/x && echo writable";
    let kernel = kernel();
    let args =
        ["run", "--rm", "--kernel", &kernel, "-e", "OWN=1", "--entrypoint", "sh", &image, "--", "-c", script];
    let said = host.ok(&args);
    let lines: Vec<&str> =
        said.lines().map(str::trim).filter(|line| !line.contains("Could not connect")).collect();
    assert_eq!(
        lines[lines.len() - 6..],
        ["PONG", "999", "/data", "hello 1", "whiteout", "writable"],
        "{said}"
    );
}

#[test]
fn vms_share_a_root_that_no_prune_takes_from_them() {
    let (host, _data, image) = host();
    let record = host.json(&["image", "import", &image, "--as", "redis:7", "--json"]);
    let kernel = kernel();
    let run = ["run", "--kernel", &kernel, "--pull", "never"];
    host.ok(&[&run[..], &["--name", "a", "--daemon", "--wait-ready", "redis:7"]].concat());
    let mut foreground =
        host.command(&[&run[..], &["--name", "b", "--rm", "redis:7", "--", "--save", ""]].concat());
    let mut foreground = foreground.stdout(Stdio::piped()).spawn().expect("pepita runs");
    let mut lines = BufReader::new(foreground.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("Ready to accept connections")), "the VM has ended");
    await_line(&host, "a", "Ready to accept connections");
    for name in ["a", "b"] {
        let config = std::fs::read_to_string(host.vm(name).join("spec.json")).expect("a configuration");
        let config: Value = serde_json::from_str(&config).expect("JSON");
        assert_eq!(config["root"]["shared"]["image"], record["root"]);
        let used = json!({ "reference": record["reference"], "digest": record["digest"], "stop_signal": 2 });
        assert_eq!(config["image"], used);
        assert_eq!(host.json(&["status", name])["image"], used);
    }
    assert_eq!(host.json(&["image", "list", "--json"])[0]["used"], json!(true));
    host.ok(&["image", "prune", "--all"]);
    host.fails(&["image", "remove", "redis:7"], 75);
    host.ok(&["destroy", "a"]);
    host.ok(&["image", "prune", "--all"]);
    assert_eq!(host.json(&["image", "list", "--json"])[0]["used"], json!(true), "the other VM has it");
    // The image's stop signal takes the place of TERM, which this process gets.
    kill(Some(foreground.id()), Signal::TERM);
    let said: Vec<String> = lines.collect();
    assert!(said.iter().any(|line| line.contains("Received SIGINT")), "{said:?}");
    assert_eq!(foreground.wait().expect("it ends").code(), Some(0));
    host.ok(&["image", "prune", "--all"]);
    assert_eq!(host.json(&["image", "list", "--json"]), json!([]));
    let advice = host.fails(&[&run[..], &["redis:7"]].concat(), 66);
    assert!(advice.contains("redis:7"), "{advice}");
}
