//! Tests of `pepita cp` as people call it: files, directories and archives in both directions, and guests that are hostile or
//! old. The VMs are plain processes; `faults/exec.rs` copies into a microVM and out of it.

mod host;

use host::{Host, beside, errors, text};
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

fn vm() -> Host {
    let host = Host::new();
    host.process("a", &["/bin/sleep", "100000"]);
    host
}

/// Returns the place in the guest of a path, which a plain process shares with the host.
fn guest(path: &Path) -> String {
    format!("a:{}", path.display())
}

#[test]
fn files_directories_and_archives_go_in_and_come_out() {
    let (host, files) = (vm(), tempfile::tempdir().expect("a directory"));
    let at = |name: &str| files.path().join(name);
    let path = |name: &str| at(name).display().to_string();
    fs::create_dir_all(at("site/sub")).expect("made");
    fs::write(at("site/sub/page"), "words").expect("written");
    fs::write(at("site/large"), vec![7; 3_000_001]).expect("written");
    symlink("sub/page", at("site/link")).expect("linked");
    symlink("/etc/passwd", at("site/out")).expect("linked");
    fs::set_permissions(at("site/sub/page"), Permissions::from_mode(0o640)).expect("set");

    host.ok(&["cp", &path("site"), &guest(&at("in"))]);
    assert_eq!(
        fs::read_link(at("in/out")).expect("a link"),
        Path::new("/etc/passwd"),
        "a guest gets all links"
    );
    assert_eq!(fs::read(at("in/large")).expect("there"), vec![7; 3_000_001]);
    // A second copy goes into the directory that is there.
    host.ok(&["cp", &path("site"), &guest(&at("in"))]);
    assert_eq!(fs::read(at("in/site/link")).expect("there"), b"words");

    // Out of a guest everything comes but the link that leads out, which is told.
    let error = host.fails(&["cp", &guest(&at("site")), &path("back")], 74);
    assert!(error.contains("left out: site/out") && !error.contains("link:"), "{error}");
    let page = at("back/sub/page").metadata().expect("there");
    assert_eq!((page.mode() & 0o7777, fs::read(at("back/link")).expect("there")), (0o640, b"words".to_vec()));
    let source = at("site/sub/page").metadata().expect("there");
    assert_eq!(page.mtime(), source.mtime());
    host.ok(&["cp", &guest(&at("site/sub/page")), &path("page")]);
    host.ok(&["cp", "-L", &guest(&at("site/link")), &path("followed")]);
    assert_eq!(fs::read(at("page")).expect("there"), fs::read(at("followed")).expect("there"));

    // Archives on the standard streams, as tar(1) has them.
    let archive = host.call(&["cp", &guest(&at("site/sub/.")), "-"]);
    assert!(archive.status.success(), "{}", errors(&archive));
    fs::create_dir(at("by-tar")).expect("made");
    let mut command = host.command(&["cp", "-", &guest(&at("by-tar"))]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pepita runs");
    child.stdin.take().expect("piped").write_all(&archive.stdout).expect("written");
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success(), "{}", errors(&output));
    assert_eq!(fs::read(at("by-tar/page")).expect("there"), b"words");

    // Mistakes say which side they are of, and leave nothing.
    let before = fs::read_dir(files.path()).expect("there").count();
    for (source, target, code, said) in [
        (guest(&at("nowhere")), path("x"), 74, "in the guest"),
        (path("nowhere"), guest(&at("x")), 74, "nowhere"),
        (path("page"), guest(&at("no/dir/x")), 74, "in the guest"),
        (guest(&at("page")), path("no/dir/x"), 74, "no/dir"),
        (guest(&at("site")), path("page"), 64, "a directory cannot be copied to a file"),
        (guest(&at("page")), path("none/"), 64, "no such directory"),
        ("a:/x".to_owned(), "a:/y".to_owned(), 64, "pepita cp A:PATH - | "),
        (path("page"), path("x"), 64, "VM:PATH"),
        ("b:/x".to_owned(), path("x"), 4, "no VM b"),
    ] {
        let error = host.fails(&["cp", &source, &target], code);
        assert!(error.contains(said), "{source} {target}: {error}");
    }
    let error = host.fails(&["cp", "--max-size", "16M", &guest(Path::new("/dev/null")), &path("x")], 74);
    assert!(error.contains("no file"), "{error}");
    assert_eq!(fs::read_dir(files.path()).expect("there").count(), before);
}

/// Makes a VM with a hostile agent.
fn hostile(how: &str) -> Host {
    let host = Host::new();
    let agent = host.path().join("agent");
    let script = format!("#!/bin/sh\nHOSTILE={how} exec {} \"$@\"\n", beside("hostile_agent.py").display());
    fs::write(&agent, script).expect("written");
    fs::set_permissions(&agent, Permissions::from_mode(0o755)).expect("executable");
    let host = host.with("PEPITA_AGENT", agent);
    host.ok(&["run", "--vmm", "process", "--name", "a", "--daemon", "--wait-ready", "--", "x"]);
    host
}

#[test]
fn a_guest_cannot_write_beside_the_target_nor_fill_the_host() {
    let error = hostile("old").fails(&["cp", "a:/x", "x"], 64);
    assert!(error.contains("older version"), "{error}");
    for (how, said) in [
        ("copy-up", "leads out of the target"),
        ("copy-absolute", "an absolute path"),
        ("copy-through-link", "a link or a file"),
        ("copy-endless", "--max-size"),
        ("copy-garbage", "cannot be read"),
        ("copy-cut", "cut short"),
        ("copy-escapes", r"\x1b[2J"),
    ] {
        let (host, files) = (hostile(how), tempfile::tempdir().expect("a directory"));
        let target = files.path().join("target");
        fs::create_dir(&target).expect("made");
        let error = host.fails(&["cp", "--max-size", "32M", "a:/x", &target.display().to_string()], 74);
        assert!(error.contains(said) && !error.contains('\x1b'), "{how}: {error}");
        let left: Vec<_> =
            fs::read_dir(files.path()).expect("there").flatten().map(|it| it.file_name()).collect();
        assert_eq!(left, ["target"], "{how}");
        let inside = fs::read_dir(&target).expect("there").flatten().map(|it| it.file_name());
        let half = inside.filter(|name| text(name.as_encoded_bytes()).contains("pepita-cp")).count();
        assert_eq!(half, 0, "{how}: no half file is left");
    }
}
