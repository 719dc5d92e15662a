//! Prints the world of a daemon as it is seen from inside: a line `key=value` for each property.

use crate::print_line;
use std::fmt::Display;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Prints all of it.
pub(crate) fn print() {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_else(|e| e.to_string());
    let status = text("/proc/self/status");
    for name in ["Uid", "Gid", "Groups", "CapBnd", "CapEff", "NoNewPrivs", "Umask"] {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        say(name, value.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "));
    }
    say("cwd", std::env::current_dir().map_or_else(|e| e.to_string(), |dir| dir.display().to_string()));
    say("hostname", text("/proc/sys/kernel/hostname").trim());
    for limit in text("/proc/self/limits").lines().filter(|line| line.starts_with("Max ")) {
        say("limit", limit.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    say("cgroup", text("/proc/self/cgroup").trim());
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let listener = TcpListener::bind((address, 0))
            .and_then(|listener| listener.local_addr().map(|at| (at, listener)));
        say(
            &format!("reach {address}"),
            outcome(listener.and_then(|(at, _listener)| TcpStream::connect(at))),
        );
    }
    for file in ["/etc/hosts", "/etc/resolv.conf"] {
        say(file, text(file).escape_default());
    }
    for mount in text("/proc/mounts").lines() {
        say("mount", mount);
    }
    for dir in ["/", "/tmp", "/run", "/dev/shm", "."] {
        let path = Path::new(dir).join("written-by-the-daemon");
        say(&format!("write {dir}"), outcome(std::fs::write(&path, "x")));
        let _ = std::fs::remove_file(path);
    }
    for link in ["/dev/fd", "/dev/stdin"] {
        say(link, std::fs::read_link(link).map_or_else(|e| e.to_string(), |to| to.display().to_string()));
    }
    for stream in ["/dev/stdout", "/dev/stderr"] {
        let opened = File::options().write(true).open(stream);
        say(stream, outcome(opened.and_then(|mut file| writeln!(file, "written to {stream}"))));
    }
    secrets();
    for (name, value) in std::env::vars_os() {
        say(&format!("env {}", name.display()), value.display());
    }
    say("agent's environment", outcome(std::fs::read("/proc/1/environ")));
    say("agent's memory", outcome(memory_of_the_agent()));
    say("agent's files", outcome(std::fs::read_link("/proc/1/fd/0")));
}

fn say(key: &str, value: impl Display) {
    print_line(&format!("{key}={value}"));
}

fn outcome<T>(result: std::io::Result<T>) -> String {
    result.map_or_else(|e| e.to_string(), |_| "ok".to_owned())
}

fn secrets() {
    let entries = std::fs::read_dir("/run/secrets").into_iter().flatten().flatten();
    for entry in entries {
        let contents = std::fs::read(entry.path())
            .map_or_else(|e| e.to_string(), |bytes| bytes.escape_ascii().to_string());
        let Ok(found) = entry.metadata() else { continue };
        let (mode, owner) = (found.permissions().mode() & 0o7777, found.uid());
        say(&format!("secret {}", entry.file_name().display()), format_args!("{mode:o} {owner} {contents}"));
    }
}

/// Reads a byte of the stack of PID 1.
fn memory_of_the_agent() -> std::io::Result<()> {
    let maps = std::fs::read_to_string("/proc/1/maps")?;
    let stack = maps.lines().find(|line| line.ends_with("[stack]")).unwrap_or_default();
    let from = stack.split('-').next().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let mut memory = File::open("/proc/1/mem")?;
    memory.seek(SeekFrom::Start(from.unwrap_or_default()))?;
    memory.read_exact(&mut [0])
}
