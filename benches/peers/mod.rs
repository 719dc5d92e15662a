//! Other supervisors, as far as they are installed, measured in the same way. Each starts the same daemon as often,
//! without a restart delay where it can be configured.

use crate::common::{kill, make_executable, missing, write_daemon};
use crate::{Home, Measured, await_other, kills, many, pid_in, report};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A daemon: a script that writes its pid to a file.
struct Daemon {
    script: PathBuf,
    file: PathBuf,
}

/// Starts a supervisor of these daemons, with its files in a directory.
type Start = fn(&Path, &[Daemon]) -> Vec<Child>;

pub(crate) struct Peer {
    pub(crate) name: &'static str,
    program: &'static str,
    /// How to install it.
    install: &'static str,
    start: Start,
}

pub(crate) const ALL: [Peer; 4] = [
    Peer { name: "runit", program: "runsv", install: "apt-get install runit", start: runit },
    Peer { name: "s6", program: "s6-supervise", install: "apt-get install s6", start: s6 },
    Peer {
        name: "supervisord",
        program: "supervisord",
        install: "apt-get install supervisor",
        start: supervisord,
    },
    Peer { name: "erlang", program: "escript", install: "make setup-tests", start: erlang },
];

/// Kills the supervisors and their daemons when it is dropped, also by a panic.
struct Running {
    supervisors: Vec<Child>,
    files: Vec<PathBuf>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.supervisors {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.files.iter().map(|file| pid_in(file)).filter(|pid| *pid != 0).for_each(kill);
    }
}

fn is_installed(program: &str) -> bool {
    if program == "escript" && fetched_erlang().is_some() {
        return true;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Returns the root of the Erlang/OTP that `make setup-tests` has fetched, and the directory of its programs.
fn fetched_erlang() -> Option<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/otp/usr/lib/erlang");
    let mut programs = std::fs::read_dir(&root).ok()?.flatten().map(|entry| entry.path().join("bin"));
    let programs = programs.find(|programs| programs.join("erlexec").exists())?;
    Some((root, programs))
}

/// Returns a call that runs an escript: with the fetched Erlang/OTP if there is one, otherwise with that of this host.
fn escript(path: &Path) -> Command {
    let Some((root, programs)) = fetched_erlang() else {
        let mut command = Command::new("escript");
        command.arg(path);
        return command;
    };
    let mut command = Command::new(programs.join("erlexec"));
    // What the scripts `escript` and `erl` set; those of the package have the path of an installation in them.
    command.env("ROOTDIR", root).env("BINDIR", programs).env("EMU", "beam").env("PROGNAME", "erl");
    command.args(["-boot", "no_dot_erlang", "-noshell", "-run", "escript", "start", "-extra"]).arg(path);
    command
}

/// Returns what was measured of a supervisor, if it is installed.
pub(crate) fn measure(peer: &Peer, home: &Home) -> Option<Measured> {
    if !is_installed(peer.program) {
        println!("{:<12} skipped: {} is not installed: {}", peer.name, peer.program, peer.install);
        missing("restart", peer.name, &format!("{} is not installed", peer.program), peer.install);
        return None;
    }
    let dir = tempfile::Builder::new().prefix("pb").tempdir_in(home.dir).expect("a directory");
    let files: Vec<PathBuf> = (0..many()).map(|n| dir.path().join(format!("pid-{n}"))).collect();
    let script = dir.path().join("daemon");
    write_daemon(&script);
    let daemon = |file: &PathBuf| Daemon { script: script.clone(), file: file.clone() };
    let daemons: Vec<Daemon> = files.iter().map(daemon).collect();
    let supervisors = (peer.start)(dir.path(), &daemons);
    let running = Running { supervisors, files: files.clone() };
    let mut pids: Vec<u32> = files.iter().map(|file| await_other(file, 0)).collect();
    // Some supervisors regard a daemon as started only after a second.
    std::thread::sleep(Duration::from_secs(2));

    let mut times = Vec::new();
    // Some supervisors wait for a second before each restart. Of these fewer kills are measured.
    let (deadline, mut n) = (Instant::now() + Duration::from_secs(30), 0);
    while n < kills() && Instant::now() < deadline {
        let at = n % many();
        let before = Instant::now();
        kill(pids[at]);
        pids[at] = await_other(&files[at], pids[at]);
        times.push(before.elapsed());
        std::thread::sleep(Duration::from_millis(5));
        n += 1;
    }
    std::thread::sleep(Duration::from_secs(2));
    let before = Instant::now();
    pids.iter().copied().for_each(kill);
    for (file, pid) in files.iter().zip(&pids) {
        await_other(file, *pid);
    }
    let measured = report(peer.name.to_owned(), home, times, before.elapsed());
    drop(running);
    Some(measured)
}

fn quiet(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the supervisor is installed")
}

/// Makes a service directory as runit and s6 read it: with a script called `run`.
fn service(dir: &Path, n: usize, Daemon { script, file }: &Daemon) -> PathBuf {
    let service = dir.join(format!("service-{n}"));
    std::fs::create_dir(&service).expect("a directory");
    let run = service.join("run");
    std::fs::write(&run, format!("#!/bin/sh\nexec {} {}\n", script.display(), file.display()))
        .expect("written");
    make_executable(&run);
    service
}

fn runit(dir: &Path, daemons: &[Daemon]) -> Vec<Child> {
    let services = daemons.iter().enumerate().map(|(n, daemon)| service(dir, n, daemon));
    services.map(|service| quiet(Command::new("runsv").arg(service))).collect()
}

fn s6(dir: &Path, daemons: &[Daemon]) -> Vec<Child> {
    let services = daemons.iter().enumerate().map(|(n, daemon)| service(dir, n, daemon));
    services.map(|service| quiet(Command::new("s6-supervise").arg(service))).collect()
}

fn supervisord(dir: &Path, daemons: &[Daemon]) -> Vec<Child> {
    let mut config =
        format!("[supervisord]\nnodaemon=true\nlogfile={0}/log\npidfile={0}/pid\n", dir.display());
    for (n, Daemon { script, file }) in daemons.iter().enumerate() {
        let (script, file) = (script.display(), file.display());
        let _ = write!(
            config,
            "[program:p{n}]\ncommand={script} {file}\nautorestart=true\nstartsecs=0\nstartretries=1000\n"
        );
    }
    let path = dir.join("supervisord.conf");
    std::fs::write(&path, config).expect("written");
    vec![quiet(Command::new("supervisord").arg("-c").arg(path))]
}

fn erlang(dir: &Path, daemons: &[Daemon]) -> Vec<Child> {
    let list: Vec<String> = daemons
        .iter()
        .map(|Daemon { script, file }| format!("{{\"{}\", \"{}\"}}", script.display(), file.display()))
        .collect();
    let program = format!(
        "#!/usr/bin/env escript\n\
         -mode(compile).\n\
         -export([init/1, child/2]).\n\
         main(_) -> {{ok, _}} = supervisor:start_link({{local, top}}, ?MODULE, [{}]), receive stop -> ok end.\n\
         init(All) ->\n\
           Child = fun({{S, F}}) -> #{{id => F, start => {{?MODULE, child, [S, F]}}, shutdown => brutal_kill}} end,\n\
           {{ok, {{#{{strategy => one_for_one, intensity => 1000000, period => 1}}, lists:map(Child, All)}}}}.\n\
         child(S, F) ->\n\
           {{ok, spawn_link(fun() ->\n\
             Port = open_port({{spawn_executable, S}}, [{{args, [F]}}, exit_status]),\n\
             receive {{Port, {{exit_status, _}}}} -> exit(ended) end\n\
           end)}}.\n",
        list.join(", ")
    );
    let path = dir.join("top.escript");
    std::fs::write(&path, program).expect("written");
    vec![quiet(&mut escript(&path))]
}
