//! Tests of calls with mistakes, of directories that cannot be written, and of launch specifications: each failure
//! prints a clear line, has the right exit code, and leaves no partial files.

mod host;

use host::{Host, program, text};
use serde_json::{Value, json};
use std::path::Path;

/// Returns the error of a call that failed, from its one line of JSON.
fn error(host: &Host, args: &[&str], code: i32) -> Value {
    let said = host.fails(args, code);
    assert_eq!(said.lines().count(), 1, "{said}");
    let error: Value = serde_json::from_str(&said).expect("JSON");
    assert!(error["message"].as_str().is_some_and(|text| text.len() > 10 && !text.contains('\n')), "{said}");
    error
}

/// Returns the names in a directory, without those that a directory of run directories always has.
fn left_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> =
        names.filter(|name| ![".cache", ".cids", ".ends"].contains(&name.as_str())).collect();
    let cids = std::fs::read_dir(dir.join(".cids")).into_iter().flatten().flatten();
    names.extend(cids.map(|entry| format!(".cids/{}", entry.file_name().display())));
    names
}

#[test]
fn a_name_is_checked_by_every_call_that_takes_one() {
    let host = Host::new();
    let long = "a".repeat(200);
    let calls: [&[&str]; 10] = [
        &["run", "--vmm", "process", "--daemon"],
        &["signal"],
        &["status"],
        &["destroy"],
        &["logs"],
        &["attach"],
        &["wait"],
        &["adopt"],
        &["start"],
        &["destroy", "--force"],
    ];
    for name in ["../x", "-rf", "", &long, "ü", "a b", "A", "a/b", ".cids", "a-"] {
        for call in calls {
            let named = format!("--name={name}");
            let error = error(&host, &[call, &["--json", &named]].concat(), 64);
            assert_eq!(error["kind"], "usage", "{call:?} {name:?}");
        }
    }
    assert_eq!(left_in(host.path()), Vec::<String>::new());
    assert!(!host.path().join("../x").exists());
}

#[test]
fn a_mistake_in_words_is_told_in_one_line_too() {
    let host = Host::new();
    for args in [&["frobnicate"][..], &["run", "--cpus", "0"], &["signal", "--name", "a", "--signal", "LOUD"]]
    {
        let said = host.fails(args, 64);
        assert!(said.starts_with("pepita: ") && said.lines().count() == 1, "{said}");
    }
    // Without arguments the usage is printed.
    assert!(host.fails(&[], 64).contains("Usage: pepita"));
}

#[test]
fn each_call_about_a_vm_that_is_not_there_says_so() {
    let host = Host::new();
    for call in ["signal", "status", "logs", "attach", "wait", "adopt", "start"] {
        let error = error(&host, &[call, "--name", "nobody", "--json"], 4);
        assert_eq!((&error["kind"], &error["name"]), (&json!("no-such-vm"), &json!("nobody")), "{call}");
    }
    assert!(host.ok(&["destroy", "--name", "nobody"]).contains("nothing to destroy"));
    assert_eq!(host.ok(&["destroy", "--name", "nobody", "--json"]), "");
    assert_eq!(host.json(&["list", "--json"]), json!([]));
}

#[test]
fn a_directory_whose_sockets_would_have_too_long_a_path_is_not_made() {
    let host = Host::new();
    let long = host.path().join("d".repeat(120));
    let ticker = program("ticker");
    let dir = long.to_string_lossy();
    let run =
        ["--run-dir", &dir, "run", "--vmm", "process", "--name", "a", "--daemon", "--json", "--", &ticker];
    let error = error(&host, &run, 64);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("too long")), "{error}");
    assert!(!long.exists());
}

#[test]
fn where_nothing_can_be_written_nothing_is_left() {
    let host = Host::new();
    std::fs::write(host.path().join("file"), "x").expect("written");
    let file = host.path().join("file");
    let below = file.join("below");
    let ticker = program("ticker");
    for (dir, code, kind) in [
        ("/proc/nowhere", 74, "io"),
        (&*file.to_string_lossy(), 74, "io"),
        (&*below.to_string_lossy(), 74, "io"),
    ] {
        let run =
            ["--run-dir", dir, "run", "--vmm", "process", "--name", "a", "--daemon", "--json", "--", &ticker];
        let error = error(&host, &run, code);
        assert_eq!(error["kind"], kind, "{error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains(dir)), "{error}");
    }
    // An empty list would mean that there is no VM.
    host.fails(&["--run-dir", &file.to_string_lossy(), "list"], 74);
    std::fs::remove_file(file).expect("removed");
    assert_eq!(left_in(host.path()), Vec::<String>::new());
}

/// A small file system for the test. Dropping it unmounts it.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(at: &Path, options: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "a file system that is full or read-only is mounted by root only: run this test as root"
        );
        std::fs::create_dir(at).expect("made");
        let mount =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(at).output();
        let mount = mount.expect("mount runs");
        assert!(mount.status.success(), "{}", host::text(&mount.stderr));
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_or_read_only_directory_is_told_and_nothing_half_made_stays() {
    let host = Host::new();
    let ticker = program("ticker");
    let run = |dir: &Path, code| {
        let dir = dir.to_string_lossy().into_owned();
        let run = [
            "--run-dir",
            &dir,
            "run",
            "--vmm",
            "process",
            "--name",
            "a",
            "--daemon",
            "--json",
            "--",
            &ticker,
        ];
        error(&host, &run, code)
    };
    let read_only = host.path().join("ro");
    let _read_only = Mounted::new(&read_only, "ro");
    assert_eq!(run(&read_only.join("r"), 77)["kind"], "permission");
    let full = host.path().join("full");
    let _full = Mounted::new(&full, "size=64k");
    for free_pages in 0..6_usize {
        let filler = full.join("filler");
        std::fs::write(&filler, vec![b'x'; (16 - free_pages) * 4096]).expect("the filler fits");
        let dir = full.join("r");
        let dir_text = dir.to_string_lossy().into_owned();
        let args = [
            "--run-dir",
            &dir_text,
            "run",
            "--vmm",
            "process",
            "--name",
            "a",
            "--daemon",
            "--json",
            "--",
            &ticker,
        ];
        let output = host.call(&args);
        let said = host::text(&output.stderr);
        if output.status.success() {
            // There was enough space for a start, so the VM can be removed, too.
            host.ok(&["--run-dir", &dir_text, "destroy", "--force", "--name", "a"]);
        } else {
            assert_eq!(output.status.code(), Some(74), "{said}");
            assert!(said.contains("No space left") && said.contains("make room"), "{said}");
        }
        assert_eq!(left_in(&dir), Vec::<String>::new(), "{free_pages} pages were free");
        assert!(host::processes_in(&dir).is_empty());
    }
}

#[test]
fn an_output_that_cannot_be_written_is_no_success() {
    let host = Host::new();
    let run = ["run", "--daemon", "--vmm", "process", "--name"];
    let cat = ["--", "/bin/sh", "-c", "echo tick; cat"];
    host.ok(&[&run[..], &["a"], &cat].concat());
    host.ok(&[&run[..], &["b"], &["--", "/bin/sh", "-c", "echo last"]].concat());
    host.ok(&["wait", "b"]);
    let calls: &[&[&str]] = &[
        &["--help"],
        &["run", "--help"],
        &["--version"],
        &["--version", "--json"],
        &["completions", "bash"],
        &["man"],
        &["list"],
        &["list", "--json"],
        &["list", "--format", "name"],
        &["status", "a"],
        &["status", "a", "--json"],
        &["wait", "b"],
        &["logs", "b"],
        &["logs", "b", "--previous"],
        &["logs", "b", "--since", "1h", "--until", "0"],
        &["logs", "b", "--follow"],
        &["adopt", "a"],
        &["destroy", "--name", "nobody"],
        &["doctor", "--no-boot"],
        &["doctor", "--no-boot", "--json"],
        &["disk", "list"],
        &[&run[..], &["c"], &cat].concat(),
    ];
    for args in calls {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("a full disk");
        let output = host.command(args).stdout(full).output().expect("pepita runs");
        let words = text(&output.stderr);
        assert_eq!(output.status.code(), Some(74), "{args:?}: {words}");
        assert!(words.contains("standard output: No space left"), "{args:?}: {words}");
        let done = ["run", "adopt"].contains(&args[0]) && args[1] != "--help";
        assert_eq!(words.contains("ed all the same"), done, "{args:?}: {words}");
    }
    // What was done is not undone, and the message says so.
    host.ok(&["status", "c"]);
    for args in [&["list"][..], &["logs", "b"], &["status", "a"]] {
        let (reader, gone) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = host.command(args).stdout(gone).output().expect("pepita runs");
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
    }
}

#[test]
fn completions_and_manual_are_produced_and_name_every_call() {
    let host = Host::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = host.ok(&["completions", shell]);
        for word in ["destroy", "vsock-cid", "doctor"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let manual = host.ok(&["man"]);
    assert!(
        manual.contains(".TH pepita") && manual.contains("destroy") && manual.contains("124 timeout"),
        "{manual}"
    );
    let of_run = host.ok(&["man", "run"]);
    assert!(of_run.contains("env\\-file") && of_run.contains("Examples"), "{of_run}");
    host.fails(&["man", "fly"], 64);
    assert!(host.ok(&["run", "--help"]).contains("pepita run --rootfs api.cpio --rm"));
    assert!(host.ok(&["image", "build", "--help"]).contains("--kernel-package /lib/modules"));
}

#[test]
fn a_taken_name_and_a_taken_cid_are_told_apart() {
    let host = Host::new();
    let ticker = program("ticker");
    host.process("a", &[&ticker]);
    let cid = host.json(&["status", "--name", "a"])["vsock"]["cid"].as_u64().expect("a CID").to_string();
    let run = ["run", "--vmm", "process", "--daemon", "--json", "--vsock-cid", &cid, "--name"];
    assert_eq!(error(&host, &[&run[..], &["a", "--", &ticker]].concat(), 73)["kind"], "name-taken");
    let clash = error(&host, &[&run[..], &["b", "--", &ticker]].concat(), 73);
    assert_eq!((&clash["kind"], &clash["name"]), (&json!("cid-taken"), &json!("b")));
    assert!(!host.vm("b").exists());
}

#[test]
fn a_plain_process_without_a_command_is_a_mistake_of_the_caller() {
    let host = Host::new();
    let bare = host.path().join("bare.json");
    std::fs::write(&bare, r#"{"env":{"A":"b"}}"#).expect("written");
    let bare = bare.to_string_lossy().into_owned();
    let run = ["run", "--vmm", "process", "--name", "a"];
    for more in [&[][..], &["--daemon"], &["--daemon", "--rootfs", &bare]] {
        let said = error(&host, &[&run[..], more, &["--json"]].concat(), 64);
        let words = said["message"].as_str().expect("a text");
        assert!(words.starts_with("command: none is given"), "{words}");
    }
    // A VM that is held gets its command later, and without one that is a mistake of the same kind.
    host.ok(&[&run[..], &["--hold", "--daemon", "--wait-ready"]].concat());
    let said = error(&host, &["start", "a", "--json"], 64);
    assert!(said["message"].as_str().is_some_and(|words| words.contains("no command is given")), "{said}");
}

/// Makes a call with a text on its standard input. Returns the exit code and the output on both streams.
fn with_input(host: &Host, args: &[&str], text: &str) -> (Option<i32>, String) {
    use std::io::Write;
    use std::process::Stdio;
    let mut command = host.command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut call = command.spawn().expect("pepita runs");
    match call.stdin.take().expect("piped").write_all(text.as_bytes()) {
        // A call that refuses its other arguments does not read.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.expect("written"),
    }
    let output = call.wait_with_output().expect("the call ends");
    (output.status.code(), host::text(&output.stdout) + &host::text(&output.stderr))
}

#[test]
fn a_specification_from_standard_input_is_launched_and_options_override_it() {
    let host = Host::new();
    let spec = json!({
        "name": "a", "incarnation": 7, "vmm": "process", "cpus": 2, "memory_mb": 64, "vsock_port": 6000,
        "command": [program("ticker")], "env": {"A": "1"}, "labels": {"owner": "spec", "kept": "yes"},
    });
    let run = ["run", "--spec", "-", "--daemon", "--json", "--vsock-cid", "77", "--label", "owner=option"];
    let (code, said) = with_input(&host, &run, &spec.to_string());
    assert_eq!(code, Some(0), "{said}");
    let status = host.json(&["status", "--name", "a"]);
    assert_eq!((&status["incarnation"], &status["vsock"]["cid"]), (&json!(7), &json!(77)), "{status}");
    assert_eq!((&status["vsock"]["port"], &status["vmm"]), (&json!(6000), &json!("process")));
    assert_eq!(status["labels"], json!({"owner": "option", "kept": "yes"}));
    let stored = std::fs::read_to_string(host.vm("a").join("spec.json")).expect("a file");
    let stored: Value = serde_json::from_str(&stored).expect("JSON");
    assert_eq!(
        (&stored["env"], &stored["cpus"], &stored["memory_mb"]),
        (&json!({"A": "1"}), &json!(2), &json!(64))
    );
    // The same specification is read from a file, with another name as an option.
    let file = host.path().join("spec");
    std::fs::write(&file, spec.to_string()).expect("written");
    host.ok(&["run", "--spec", &file.to_string_lossy(), "--name", "b", "--daemon"]);
    assert_eq!(host.ok(&["list", "--format", "name"]), "a\nb\n");
    std::fs::remove_file(file).expect("removed");
}

#[test]
fn a_specification_that_cannot_be_met_is_refused_by_the_name_of_its_field() {
    let host = Host::new();
    let cases = [
        (json!({"levitate": true}), "levitate"),
        (json!({"cpus": 0}), "cpus"),
        (json!({"memory_mb": "much"}), "string \"much\""),
        (json!({"vsock_cid": 2}), "vsock_cid"),
        (json!({"vmm": "xen"}), "vmm"),
        (json!({"name": "../x"}), "name"),
    ];
    for (fields, named) in cases {
        let mut spec = json!({"name": "a", "vmm": "process", "command": [program("ticker")]});
        spec.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        let (code, said) =
            with_input(&host, &["run", "--spec", "-", "--daemon", "--json"], &spec.to_string());
        assert_eq!(code, Some(64), "{said}");
        let error: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(error["kind"], "usage");
        assert!(error["message"].as_str().is_some_and(|text| text.contains(named)), "{error}");
    }
    let both = ["run", "--spec", "-", "--env-file", "-", "--daemon", "--json"];
    let (code, said) = with_input(&host, &both, "{}");
    assert!(code == Some(64) && said.contains("standard input"), "{said}");
    assert_eq!(left_in(host.path()), Vec::<String>::new());
}
