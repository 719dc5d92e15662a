//! `pepita doctor`: each thing that is needed, found or not, and what to do. Tells what was seen, not what is likely.

use crate::agent_program::{AGENT, BACKEND, Program, QEMU};
use crate::call::probe;
use crate::failure::Outcome;
use crate::rundir::RunDir;
use crate::{tsc, vhost};
use pepita_wire::record::{VmmAvailability, pretty};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What is to be checked.
#[derive(Debug)]
pub struct Asked {
    /// Boot a guest.
    pub boot: bool,
    /// With this kernel.
    pub kernel: Option<PathBuf>,
    /// And this initramfs.
    pub rootfs: Option<PathBuf>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is there and works.
    Ok,
    /// It is not there; there is another way.
    Missing,
    /// Without it no microVM runs.
    Broken,
}

/// One thing.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What.
    pub what: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

fn check(what: &'static str, verdict: Verdict, seen: impl Into<String>, advice: Option<&str>) -> Check {
    Check { what, verdict, seen: seen.into(), advice: advice.map(str::to_owned) }
}

/// Which VMMs can be used here, without running them.
pub fn vmms() -> Vec<VmmAvailability> {
    let one = |name: &str, program: &Program| {
        let found = program.find();
        let detail =
            found.as_ref().map_or_else(|| program.advice.to_owned(), |path| path.display().to_string());
        VmmAvailability { name: name.to_owned(), usable: found.is_some(), detail }
    };
    vec![one("qemu", &QEMU), one("process", &AGENT)]
}

/// Whether KVM can boot a stock kernel here: the device opens, and the CPU has the feature. The device alone proves
/// nothing; some hosts have one that stock kernels hang under.
///
/// # Errors
/// What is missing.
pub fn hardware_virtualisation() -> Result<(), String> {
    let device = Path::new("/dev/kvm");
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    judge_kvm(device.exists(), std::fs::File::options().read(true).write(true).open(device).err(), &cpuinfo)
}

fn judge_kvm(exists: bool, refused: Option<std::io::Error>, cpuinfo: &str) -> Result<(), String> {
    if !exists {
        return Err("/dev/kvm does not exist".into());
    }
    if let Some(e) = refused {
        return Err(format!("/dev/kvm cannot be opened: {e}"));
    }
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    let real = flags.flat_map(str::split_ascii_whitespace).any(|flag| flag == "vmx" || flag == "svm");
    match real {
        true => Ok(()),
        false => {
            Err("/dev/kvm opens, but the CPU has neither vmx nor svm: stock kernels do not boot under it"
                .into())
        }
    }
}

/// `pepita doctor`.
///
/// # Errors
/// Never by itself: what is broken is in the report and in the exit code (69).
pub fn doctor(run_dir: &RunDir, asked: &Asked, json: bool) -> Outcome<ExitCode> {
    let mut checks =
        vec![qemu(), accel(), backend(), kernel_vsock(), agent(), run_directory(run_dir), limits()];
    checks.extend([frequency(run_dir), mke2fs()]);
    let (kernel, rootfs) = (kernel(asked), asked.rootfs.clone());
    checks.push(match &kernel {
        Some(path) => check("kernel", Verdict::Ok, path.display().to_string(), None),
        None => {
            check("kernel", Verdict::Missing, "none named, none in /boot", Some("name one with --kernel"))
        }
    });
    if asked.boot {
        checks.push(boot(run_dir, kernel.as_deref(), rootfs.as_deref()));
    }
    let broken = checks.iter().any(|check| check.verdict == Verdict::Broken);
    report(&checks, json);
    Ok(if broken { ExitCode::from(69) } else { ExitCode::SUCCESS })
}

fn report(checks: &[Check], json: bool) {
    if json {
        return println!("{}", pretty(&checks));
    }
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for check in checks {
        let (word, colour) = match check.verdict {
            Verdict::Ok => ("ok", "32"),
            Verdict::Missing => ("missing", "33"),
            Verdict::Broken => ("broken", "31"),
        };
        let word = if colours { format!("\x1b[{colour}m{word:8}\x1b[0m") } else { format!("{word:8}") };
        println!("{word} {:14} {}", check.what, check.seen);
        if let Some(advice) = &check.advice {
            println!("{:8} {:14} -> {advice}", "", "");
        }
    }
}

fn program(what: &'static str, program: &Program, args: &[&str], otherwise: Verdict) -> Check {
    let Some(path) = program.find() else {
        return check(what, otherwise, format!("{} not found", program.name), Some(program.advice));
    };
    match Command::new(&path).args(args).output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
            check(what, Verdict::Ok, format!("{} ({text})", path.display()), None)
        }
        Ok(output) => {
            check(what, otherwise, format!("{}: {}", path.display(), output.status), Some(program.advice))
        }
        Err(e) => check(what, otherwise, format!("{}: {e}", path.display()), Some(program.advice)),
    }
}

fn qemu() -> Check {
    program("VMM", &QEMU, &["--version"], Verdict::Broken)
}

fn agent() -> Check {
    program("guest agent", &AGENT, &["--version"], Verdict::Missing)
}

fn accel() -> Check {
    match hardware_virtualisation() {
        Ok(()) => check("acceleration", Verdict::Ok, "KVM", None),
        Err(why) => {
            let advice = "guests are emulated (TCG): they boot in about a second and compute slowly";
            check("acceleration", Verdict::Missing, why, Some(advice))
        }
    }
}

fn backend() -> Check {
    let otherwise = if vhost::is_available() { Verdict::Missing } else { Verdict::Broken };
    program("hybrid vsock", &BACKEND, &["--version"], otherwise)
}

fn kernel_vsock() -> Check {
    match std::fs::File::options().read(true).write(true).open(vhost::DEVICE) {
        Ok(_) => check("kernel vsock", Verdict::Ok, vhost::DEVICE, None),
        Err(e) => {
            let advice =
                "modprobe vhost_vsock where the host's kernel has it; else the hybrid transport is used";
            check("kernel vsock", Verdict::Missing, format!("{}: {e}", vhost::DEVICE), Some(advice))
        }
    }
}

fn run_directory(run_dir: &RunDir) -> Check {
    let path = run_dir.path().display();
    let probe = run_dir.path().join(format!(".probe-{}", std::process::id()));
    let written = run_dir.create().map_err(|e| e.message).and_then(|()| {
        std::fs::write(&probe, b"x").and_then(|()| std::fs::remove_file(&probe)).map_err(|e| e.to_string())
    });
    match written {
        Ok(()) => check("run directory", Verdict::Ok, path.to_string(), None),
        Err(e) => {
            let advice = "name a short path on a local file system that you can write to, with --run-dir";
            check("run directory", Verdict::Broken, format!("{path}: {e}"), Some(advice))
        }
    }
}

fn limits() -> Check {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let seen = format!("open files: {}", files.current.map_or("unlimited".to_owned(), |n| n.to_string()));
    let enough = files.current.is_none_or(|n| n >= 1024);
    let verdict = if enough { Verdict::Ok } else { Verdict::Missing };
    check("limits", verdict, seen, (!enough).then_some("ulimit -n 4096"))
}

fn frequency(run_dir: &RunDir) -> Check {
    match tsc::khz(run_dir) {
        Some(khz) => check("host TSC", Verdict::Ok, format!("{khz} kHz"), None),
        None => {
            let advice = "emulated guests measure it themselves, and hang in one boot of five";
            check("host TSC", Verdict::Missing, "not to be measured", Some(advice))
        }
    }
}

fn mke2fs() -> Check {
    let found = ["/usr/sbin/mke2fs", "/sbin/mke2fs"].into_iter().find(|path| Path::new(path).exists());
    match found {
        Some(path) => check("mke2fs", Verdict::Ok, path, None),
        None => check(
            "mke2fs",
            Verdict::Missing,
            "not found",
            Some("for .ext4 images: apt-get install e2fsprogs"),
        ),
    }
}

fn kernel(asked: &Asked) -> Option<PathBuf> {
    asked.kernel.clone().or_else(|| {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
        let running = PathBuf::from(format!("/boot/vmlinuz-{}", release.trim()));
        [running, PathBuf::from("/boot/vmlinuz")].into_iter().find(|path| path.exists())
    })
}

/// The proof: a real guest, with a deadline.
fn boot(run_dir: &RunDir, kernel: Option<&Path>, rootfs: Option<&Path>) -> Check {
    let (Some(kernel), Some(rootfs)) = (kernel, rootfs) else {
        let advice = "name a kernel and an image: pepita doctor --kernel K --rootfs R";
        return check("boot", Verdict::Missing, "not tried", Some(advice));
    };
    match probe(run_dir, kernel, rootfs) {
        Ok(seen) => check("boot", Verdict::Ok, seen, None),
        Err(e) => {
            let advice =
                "see what the guest said: pepita run --kernel K --rootfs R --cmdline-append loglevel=7";
            check("boot", Verdict::Broken, e.message, Some(advice))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_alone_is_no_hardware_virtualisation() {
        let denied = || Some(std::io::Error::from_raw_os_error(13));
        let real = "processor : 0\nflags\t\t: fpu vmx sse\n";
        assert_eq!(judge_kvm(true, None, real), Ok(()));
        let cases = [
            (false, None, real, "does not exist"),
            (true, denied(), real, "cannot be opened"),
            (true, None, "flags : fpu vmxx", "neither vmx nor svm"),
        ];
        for (exists, refused, cpuinfo, word) in cases {
            let why = judge_kvm(exists, refused, cpuinfo).expect_err(word);
            assert!(why.contains(word), "{why}");
        }
    }
}
