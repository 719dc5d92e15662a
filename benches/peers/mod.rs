//! Other supervisors, measured in the same way where they are installed. Each starts the same daemon a hundred times,
//! with no delay of its own where that can be said.

use crate::common::{kill, make_executable};
use crate::{MANY, await_other, kills, pid_in, report};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starts a supervisor in a directory for these daemons: a script and its argument each.
type Start = fn(&Path, &[(PathBuf, PathBuf)]) -> Vec<Child>;

pub(crate) struct Peer {
    pub(crate) name: &'static str,
    program: &'static str,
    start: Start,
}

pub(crate) const ALL: [Peer; 4] = [
    Peer { name: "runit", program: "runsv", start: runit },
    Peer { name: "s6", program: "s6-supervise", start: s6 },
    Peer { name: "supervisord", program: "supervisord", start: supervisord },
    Peer { name: "erlang", program: "escript", start: erlang },
];

/// Ends what it started, whatever happens.
struct Running(Vec<Child>, Vec<PathBuf>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.1.iter().map(|file| pid_in(file)).filter(|pid| *pid != 0).for_each(kill);
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

pub(crate) fn measure(peer: &Peer) {
    if !is_installed(peer.program) {
        println!("{:<12} skipped: {} is not installed", peer.name, peer.program);
        return;
    }
    let dir = tempfile::Builder::new().prefix("pb").tempdir_in("/tmp").expect("a directory");
    let files: Vec<PathBuf> = (0..MANY).map(|n| dir.path().join(format!("pid-{n}"))).collect();
    let script = dir.path().join("daemon");
    std::fs::write(&script, "#!/bin/sh\necho $$ > \"$1.new\"\nmv \"$1.new\" \"$1\"\nexec sleep 1000000\n")
        .expect("written");
    make_executable(&script);
    let daemons: Vec<_> = files.iter().map(|file| (script.clone(), file.clone())).collect();
    let running = Running((peer.start)(dir.path(), &daemons), files.clone());
    let mut pids: Vec<u32> = files.iter().map(|file| await_other(file, 0)).collect();
    // Some take a daemon for well only after a second.
    std::thread::sleep(Duration::from_secs(2));

    let mut times = Vec::new();
    // Those that wait for a second each time need not be asked two hundred times.
    let (deadline, mut n) = (Instant::now() + Duration::from_secs(30), 0);
    while n < kills() && Instant::now() < deadline {
        let at = n % MANY;
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
    report(peer.name, times, Some(before.elapsed()));
    drop(running);
}

fn quiet(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("it is installed")
}

/// A service directory of runit and of s6: a script called `run`.
fn service(dir: &Path, n: usize, (script, file): &(PathBuf, PathBuf)) -> PathBuf {
    let service = dir.join(format!("service-{n}"));
    std::fs::create_dir(&service).expect("a directory");
    let run = service.join("run");
    std::fs::write(&run, format!("#!/bin/sh\nexec {} {}\n", script.display(), file.display()))
        .expect("written");
    make_executable(&run);
    service
}

fn runit(dir: &Path, daemons: &[(PathBuf, PathBuf)]) -> Vec<Child> {
    let services = daemons.iter().enumerate().map(|(n, daemon)| service(dir, n, daemon));
    services.map(|service| quiet(Command::new("runsv").arg(service))).collect()
}

fn s6(dir: &Path, daemons: &[(PathBuf, PathBuf)]) -> Vec<Child> {
    let services = daemons.iter().enumerate().map(|(n, daemon)| service(dir, n, daemon));
    services.map(|service| quiet(Command::new("s6-supervise").arg(service))).collect()
}

fn supervisord(dir: &Path, daemons: &[(PathBuf, PathBuf)]) -> Vec<Child> {
    let mut config =
        format!("[supervisord]\nnodaemon=true\nlogfile={0}/log\npidfile={0}/pid\n", dir.display());
    for (n, (script, file)) in daemons.iter().enumerate() {
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

fn erlang(dir: &Path, daemons: &[(PathBuf, PathBuf)]) -> Vec<Child> {
    let list: Vec<String> = daemons
        .iter()
        .map(|(script, file)| format!("{{\"{}\", \"{}\"}}", script.display(), file.display()))
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
    vec![quiet(Command::new("escript").arg(path))]
}
