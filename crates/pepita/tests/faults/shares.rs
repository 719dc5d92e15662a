//! Directories of the host in a guest: read-only unless it is said otherwise, without a way out of them, and with an end
//! of the VM that says why when their server dies.

use super::host::{Form, Host, errors, kill, text};
use pepita_wire::Exit;
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;

/// Returns the process of the server of a share.
fn server(host: &Host, name: &str, mount: &str) -> Option<u32> {
    let state = std::fs::read(host.vm(name).join("state.json")).expect("a state");
    let state: Value = serde_json::from_slice(&state).expect("JSON");
    state["shares"][mount]["pid"].as_u64().and_then(|pid| pid.try_into().ok())
}

#[test]
fn a_guest_reads_a_directory_of_the_host_writes_where_it_may_and_gets_nowhere_else() {
    let files = tempfile::tempdir().expect("a directory");
    let [site, inbox] = ["site", "in"].map(|name| files.path().join(name));
    for dir in [&site, &inbox] {
        std::fs::create_dir(dir).expect("made");
    }
    std::fs::write(site.join("hello"), "of the host").expect("written");
    std::fs::write(files.path().join("secret"), "not for guests").expect("written");
    std::os::unix::fs::symlink(files.path().join("secret"), site.join("out")).expect("a link");
    std::os::unix::fs::symlink("../secret", site.join("up")).expect("a link");
    let volume = |dir: &Path, rest: &str| format!("{}:{rest}", dir.display());
    let [site_volume, inbox_volume] = [volume(&site, "/srv/www"), volume(&inbox, "/in:rw")];

    let host = Host::of(Form::Qemu);
    host.start_with("d", &["-v", &site_volume, "-v", &inbox_volume, "--wait-ready"], &[]);
    let ticker = |words: &[&str]| {
        let command = [&["/usr/bin/ticker", "--no-ready"], words, &["--exit", "0"]].concat();
        host.exec("d", &command, 0).output
    };
    assert!(ticker(&["--cat", "/srv/www/hello"]).contains("of the host"));
    for link in ["/srv/www/out", "/srv/www/up"] {
        let said = ticker(&["--cat", link]);
        assert!(said.contains("No such file") && !said.contains("not for guests"), "{link}: {said}");
    }
    let said = ticker(&["--write", "1", "--to", "/srv/www/x"]);
    assert!(said.contains("Read-only file system"), "{said}");
    ticker(&["--write", "1", "--to", "/in/x"]);
    assert_eq!(inbox.join("x").metadata().expect("written").len(), 1 << 20);

    // The host keeps the promise by itself: all that a server has is its directory, and for one that is read-only a mount that
    // is read-only.
    let options = |mount: &str| {
        let pid = server(&host, "d", mount).expect("a server");
        let all = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("readable");
        let root = all.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("its root");
        root.split(' ').nth(5).expect("options").to_owned()
    };
    let [www, incoming] = ["/srv/www", "/in"].map(options);
    assert!(
        www.starts_with("ro,nosuid,nodev") && incoming.starts_with("rw,nosuid,nodev"),
        "{www} {incoming}"
    );
    std::fs::write(site.join("hello"), "of the host, later").expect("the host writes on");

    // A monitor that adopts the VM knows its servers, and the end of one is the end of the VM.
    kill(host.status("d").monitor_pid, Signal::KILL);
    host.ok(&["adopt", "--name", "d"]);
    host.until("d", |status| status.agent.ready);
    assert!(host.exec("d", &["/usr/bin/ticker", "--no-ready", "--exit", "0"], 0).exit == Exit::code(0));
    kill(server(&host, "d", "/srv/www"), Signal::KILL);
    let exit = host.exit("d");
    let Exit::ShareLost { message } = &exit.exit else { panic!("{:?} {:?}", exit.exit, exit.evidence) };
    assert!(message.starts_with("share /srv/www: its server (virtiofsd)"), "{message}");
    host.destroy("d", &[]);
    assert!(!site.join("x").exists());
}

/// What a shell of the host does in the guest. The host's programs need its loader: the guest has none.
const SCRIPT: &str = "
    host() { name=$1; shift; $load /host/bin/$name \"$@\"; }
    set -e
    cd /in
    host mkdir a b open; host chmod 777 open
    echo x >a/f; host ln a/f b/linked; host mv -T a b/moved
    host chown 1000:1001 b/linked; host chmod 640 b/linked
    host setpriv --reuid 1000 --regid 1001 --clear-groups $load /host/bin/touch open/mine
    host mkfifo b/pipe; host ln -s linked b/link
    host cp /usr/bin/ticker b/program; b/program --no-ready --exit 0
    if host mknod b/device c 1 3; then echo a device was made; exit 1; fi
    echo of the guest >>b/linked; host rm b/moved/f
    echo all done";

#[test]
fn a_guest_makes_moves_and_executes_files_and_their_owners_are_those_of_the_guest() {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    assert!(rustix::process::geteuid().is_root(), "run the tests as root: others own no files but their own");
    let inbox = tempfile::tempdir().expect("a directory");
    let host = Host::of(Form::Qemu);
    let inbox_volume = format!("{}:/in:rw", inbox.path().display());
    host.start_with("d", &["-v", &inbox_volume, "-v", "/usr:/host", "--wait-ready"], &[]);
    let loader = std::fs::canonicalize("/lib64/ld-linux-x86-64.so.2").expect("the host's loader");
    let loader = Path::new("/host").join(loader.strip_prefix("/usr").expect("below /usr"));
    let libraries = loader.parent().expect("a directory").display().to_string();
    let (loader, script) = (
        loader.display().to_string(),
        format!("load='{} --library-path {libraries}'{SCRIPT}", loader.display()),
    );
    let shell = [&loader[..], "--library-path", &libraries, "/host/bin/sh", "-c", &script];
    let result = host.exec("d", &shell, 0);
    assert!(result.output.contains("all done"), "{result:?}");
    let meta = |name: &str| std::fs::symlink_metadata(inbox.path().join(name)).expect(name);
    let linked = meta("b/linked");
    assert_eq!((linked.uid(), linked.gid(), linked.mode() & 0o777), (1000, 1001, 0o640));
    assert_eq!(std::fs::read(inbox.path().join("b/linked")).expect("readable"), b"x\nof the guest\n");
    let mine = meta("open/mine");
    assert_eq!((mine.uid(), mine.gid()), (1000, 1001));
    assert!(meta("b/pipe").file_type().is_fifo() && meta("b/link").file_type().is_symlink());
    assert!(meta("b/moved").is_dir() && meta("b/program").uid() == 0);
    host.destroy("d", &[]);
}

#[test]
fn what_cannot_be_shared_is_refused_before_the_launch() {
    let files = tempfile::tempdir().expect("a directory");
    let volume = format!("{}:/x", files.path().display());
    let host = Host::of(Form::Qemu).with("PEPITA_VIRTIOFSD", "/nowhere/virtiofsd");
    let refused = |options: &[&str], code: i32, words: &str| {
        let output = host.run("d", &[&["--daemon"], options].concat(), &[]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(code), "{}", errors(&output));
        assert!(text(&output.stderr).contains(words), "{words}: {}", errors(&output));
    };
    refused(&["-v", &volume], 69, "apt-get install virtiofsd");
    refused(&["-v", "./nowhere:/x"], 66, "nowhere");
    refused(&["-v", "/:/x"], 64, "the root of the host");
    refused(&["-v", "/etc/passwd:/x"], 64, "no directory");
    refused(&["-v", &volume, "-v", "data:/x"], 64, "both mounted at /x");
    let process = ["run", "--vmm", "process", "-v", &volume, "--", "/bin/true"];
    assert!(host.fails(&process, 64).contains("no shares of its own"));
    assert!(!host.vm("d").exists());
}
