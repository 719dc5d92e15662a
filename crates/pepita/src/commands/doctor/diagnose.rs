//! Judges whether a host can run microVMs: turns the facts about the host into a verdict and advice for each
//! requirement. Pure: [`super`] gathers the facts.

use crate::host::kvm::{Kvm, hardware};
use crate::host::programs::{AGENT, BACKEND, Program, QEMU};
use crate::host::vhost_vsock;
use pepita_jail::{Layer, Report, Standing};
use serde::Serialize;
use std::path::PathBuf;

/// The verdict on one requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// The requirement is met.
    Ok,
    /// The requirement is not met, but microVMs run without it.
    Missing,
    /// The requirement is not met, and no microVM runs without it.
    Broken,
}

/// The result for one requirement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// The name of the requirement.
    pub what: &'static str,
    /// Whether the requirement is met.
    pub verdict: Verdict,
    /// The facts on which the verdict rests.
    pub seen: String,
    /// The advice for a requirement that is not met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// The result of the search for a program and of the call that prints its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// The program was not found.
    No,
    /// The program at this path runs and prints this version.
    Runs(PathBuf, String),
    /// The program at this path does not run, for this reason.
    Fails(PathBuf, String),
}

/// The facts that were gathered about a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// The result of the search for the VMM's program.
    pub qemu: Found,
    /// The result of the search for the vsock back-end's program.
    pub backend: Found,
    /// The result of the search for the guest agent's program.
    pub agent: Found,
    /// The state of the device of hardware virtualisation.
    pub kvm: Kvm,
    /// Whether the CPU has the feature `vmx` or `svm`.
    pub cpu_can: bool,
    /// Whether `/dev/vhost-vsock` opens, or the reason why it does not.
    pub vhost: Result<(), String>,
    /// The directory of run directories.
    pub run_dir: PathBuf,
    /// Whether the directory of run directories can be written, or the reason why it cannot.
    pub writable: Result<(), String>,
    /// The limit on the open file descriptors of a process; `None` = no limit.
    pub open_files: Option<u64>,
    /// What is said of the layers of a jail, or the reason why none was tried.
    pub jail: Result<Report, String>,
    /// What is said of the layers of the jail of a share's server, or the reason why none was tried.
    pub share_jail: Result<Report, String>,
    /// The frequency of the host's TSC, in kHz.
    pub tsc_khz: Option<u64>,
    /// The path of mke2fs, which creates disk images.
    pub mke2fs: Option<PathBuf>,
    /// The path of a kernel for guests.
    pub kernel: Option<PathBuf>,
    /// Whether VMs can have network devices of this host, or what is missing.
    pub tap: Result<(), String>,
    /// The result of a real boot; `None` = the boot was switched off.
    pub boot: Option<Boot>,
}

/// The result of a real boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Boot {
    /// The boot was not tried, because no kernel or no image was named.
    NotTried,
    /// The agent answered; the text says after how long.
    Answered(String),
    /// The guest did not boot, for this reason.
    Failed(String),
}

/// Returns the result for each requirement.
pub(super) fn diagnose(facts: &Facts) -> Vec<Check> {
    let no_kernel_vsock = if facts.vhost.is_ok() { Verdict::Missing } else { Verdict::Broken };
    let mut checks = vec![
        program("VMM", &QEMU, &facts.qemu, Verdict::Broken),
        acceleration(facts),
        program("hybrid vsock", &BACKEND, &facts.backend, no_kernel_vsock),
        kernel_vsock(facts),
        program("guest agent", &AGENT, &facts.agent, Verdict::Missing),
        run_directory(facts),
        limits(facts),
        frequency(facts),
        mke2fs(facts),
        kernel(facts),
        network_devices(facts),
    ];
    checks.extend(jail("jail", &facts.jail));
    checks.extend(jail("jail of shares", &facts.share_jail.as_ref().map(|share| beside(share, &facts.jail))));
    checks.extend(facts.boot.as_ref().map(boot));
    checks
}

/// Returns what differs in the jail of a share's server from the jail of a VMM.
fn beside(share: &Report, jail: &Result<Report, String>) -> Report {
    let is_same = |layer, standing| jail.as_ref().is_ok_and(|jail| jail.of(layer) == Some(standing));
    let mut report = Report::default();
    for (layer, standing) in share.iter().filter(|(layer, standing)| !is_same(*layer, *standing)) {
        report.note(layer, standing.clone());
    }
    report
}

/// Returns the result for each layer of a jail.
fn jail<E: AsRef<str>>(what: &'static str, tried: &Result<Report, E>) -> Vec<Check> {
    let advice = "VMs start without this layer with --jail best-effort, and not with --jail full";
    let layer = |(layer, standing): (Layer, &Standing)| match standing {
        Standing::InForce { note } => {
            let note = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
            check(what, Verdict::Ok, format!("{layer}{note}"), None)
        }
        Standing::LeftOut { why } => check(what, Verdict::Ok, format!("{layer} is left out: {why}"), None),
        Standing::Missing { why } => check(what, Verdict::Missing, format!("{layer}: {why}"), Some(advice)),
    };
    match tried {
        Ok(report) => report.iter().map(layer).collect(),
        Err(why) => vec![check(what, Verdict::Missing, why.as_ref(), Some(advice))],
    }
}

fn check(what: &'static str, verdict: Verdict, seen: impl Into<String>, advice: Option<&str>) -> Check {
    Check { what, verdict, seen: seen.into(), advice: advice.map(str::to_owned) }
}

fn program(what: &'static str, program: &Program, found: &Found, otherwise: Verdict) -> Check {
    match found {
        Found::Runs(path, version) => {
            check(what, Verdict::Ok, format!("{} ({version})", path.display()), None)
        }
        Found::Fails(path, why) => {
            check(what, otherwise, format!("{}: {why}", path.display()), Some(program.advice))
        }
        Found::No => check(what, otherwise, format!("{} not found", program.name), Some(program.advice)),
    }
}

fn acceleration(facts: &Facts) -> Check {
    let slow = "guests are emulated (TCG): they boot in about a second and compute slowly";
    match hardware(&facts.kvm, facts.cpu_can) {
        Ok(()) => check("acceleration", Verdict::Ok, "KVM", None),
        Err(why) => {
            let advice = match facts.kvm {
                Kvm::Refused(_) => format!("{slow}; to use it, join the group of /dev/kvm"),
                Kvm::Absent | Kvm::Opens => slow.to_owned(),
            };
            check("acceleration", Verdict::Missing, why, Some(&advice))
        }
    }
}

fn kernel_vsock(facts: &Facts) -> Check {
    let advice = "modprobe vhost_vsock where the host's kernel has it; else the hybrid transport is used";
    match &facts.vhost {
        Ok(()) => check("kernel vsock", Verdict::Ok, vhost_vsock::DEVICE, None),
        Err(why) => {
            check("kernel vsock", Verdict::Missing, format!("{}: {why}", vhost_vsock::DEVICE), Some(advice))
        }
    }
}

fn run_directory(facts: &Facts) -> Check {
    let path = facts.run_dir.display();
    let advice = "name a short path on a local file system that you can write to, with --run-dir";
    match &facts.writable {
        Ok(()) => check("run directory", Verdict::Ok, path.to_string(), None),
        Err(why) => check("run directory", Verdict::Broken, format!("{path}: {why}"), Some(advice)),
    }
}

fn limits(facts: &Facts) -> Check {
    let seen = format!("open files: {}", facts.open_files.map_or("unlimited".to_owned(), |n| n.to_string()));
    match facts.open_files {
        Some(..1024) => check("limits", Verdict::Missing, seen, Some("ulimit -n 4096")),
        Some(_) | None => check("limits", Verdict::Ok, seen, None),
    }
}

fn frequency(facts: &Facts) -> Check {
    let advice = "emulated guests measure it themselves, and hang in one boot of five";
    match facts.tsc_khz {
        Some(khz) => check("host TSC", Verdict::Ok, format!("{khz} kHz"), None),
        None => check("host TSC", Verdict::Missing, "not to be measured", Some(advice)),
    }
}

fn mke2fs(facts: &Facts) -> Check {
    let advice = "for .ext4 images: apt-get install e2fsprogs";
    match &facts.mke2fs {
        Some(path) => check("mke2fs", Verdict::Ok, path.display().to_string(), None),
        None => check("mke2fs", Verdict::Missing, "not found", Some(advice)),
    }
}

fn kernel(facts: &Facts) -> Check {
    match &facts.kernel {
        Some(path) => check("kernel", Verdict::Ok, path.display().to_string(), None),
        None => {
            check("kernel", Verdict::Missing, "none named, none in /boot", Some("name one with --kernel"))
        }
    }
}

fn network_devices(facts: &Facts) -> Check {
    let advice = "for network = \"tap\" alone; published ports and network = \"user\" do without";
    match &facts.tap {
        Ok(()) => check("network tap", Verdict::Ok, "devices can be made, ip and nft are there", None),
        Err(why) => check("network tap", Verdict::Missing, why, Some(advice)),
    }
}

fn boot(boot: &Boot) -> Check {
    let name = "name a kernel and an image: pepita doctor --kernel K --rootfs R";
    let look = "see what the guest said: pepita run --kernel K --rootfs R --cmdline-append loglevel=7";
    match boot {
        Boot::NotTried => check("boot", Verdict::Missing, "not tried", Some(name)),
        Boot::Answered(seen) => check("boot", Verdict::Ok, seen, None),
        Boot::Failed(why) => check("boot", Verdict::Broken, why, Some(look)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Broken, Missing, Ok as Fine};

    fn runs(path: &str) -> Found {
        Found::Runs(path.into(), "1.0".into())
    }

    /// Returns the facts of a host that meets all requirements.
    fn good() -> Facts {
        Facts {
            qemu: runs("/usr/bin/qemu-system-x86_64"),
            backend: runs("/usr/bin/vhost-device-vsock"),
            agent: runs("/usr/bin/daemonctl"),
            kvm: Kvm::Opens,
            cpu_can: true,
            vhost: Ok(()),
            run_dir: "/run/pepita".into(),
            writable: Ok(()),
            open_files: Some(4096),
            jail: Ok(in_force()),
            share_jail: Ok(in_force()),
            tsc_khz: Some(2_000_000),
            mke2fs: Some("/sbin/mke2fs".into()),
            kernel: Some("/boot/vmlinuz".into()),
            tap: Ok(()),
            boot: Some(Boot::Answered("the agent answered 900 ms after the VMM's start (kvm)".into())),
        }
    }

    fn in_force() -> Report {
        let mut report = Report::default();
        report.note(Layer::Root, Standing::in_force());
        report
            .note(Layer::Uid, Standing::LeftOut { why: "an ordinary user cannot become another one".into() });
        report
    }

    /// Returns what is said of a jail on a host without Landlock.
    fn without_landlock() -> Report {
        let mut report = in_force();
        report.note(Layer::Landlock, Standing::Missing { why: "this kernel has no Landlock".into() });
        report
    }

    fn no(why: &str) -> Result<(), String> {
        Err(why.into())
    }

    /// Returns the requirements that are not met, with the facts and the advice.
    fn complaints(facts: &Facts) -> Vec<(&'static str, Verdict, String)> {
        let all = diagnose(facts).into_iter().filter(|check| check.verdict != Fine);
        all.map(|check| (check.what, check.verdict, format!("{} {:?}", check.seen, check.advice))).collect()
    }

    #[test]
    fn each_host_is_diagnosed_by_what_was_seen() {
        let failed = Found::Fails("/q".into(), "exit status: 1".into());
        let denied = "Permission denied (os error 13)";
        type Case = (&'static str, Facts, &'static [(&'static str, Verdict, &'static str)]);
        let cases: [Case; 18] = [
            ("a server", good(), &[]),
            (
                "a /dev/kvm that boots nothing",
                Facts { cpu_can: false, ..good() },
                &[("acceleration", Missing, "neither vmx nor svm")],
            ),
            ("no KVM", Facts { kvm: Kvm::Absent, ..good() }, &[("acceleration", Missing, "does not exist")]),
            (
                "another user's KVM",
                Facts { kvm: Kvm::Refused(denied.into()), ..good() },
                &[("acceleration", Missing, "join the group")],
            ),
            (
                "KVM that says it works and boots nothing",
                Facts { boot: Some(Boot::Failed("it took too long".into())), ..good() },
                &[("boot", Broken, "loglevel=7")],
            ),
            (
                "a container: hybrid only",
                Facts { vhost: no("No such file"), kvm: Kvm::Absent, ..good() },
                &[("acceleration", Missing, "TCG"), ("kernel vsock", Missing, "hybrid transport")],
            ),
            (
                "the kernel's vsock only",
                Facts { backend: Found::No, ..good() },
                &[("hybrid vsock", Missing, "cargo install vhost-device-vsock")],
            ),
            (
                "no vsock at all",
                Facts { backend: Found::No, vhost: no("No such file"), ..good() },
                &[("hybrid vsock", Broken, "not found"), ("kernel vsock", Missing, "modprobe")],
            ),
            ("no QEMU", Facts { qemu: Found::No, ..good() }, &[("VMM", Broken, "apt-get install")]),
            ("a broken QEMU", Facts { qemu: failed, ..good() }, &[("VMM", Broken, "/q: exit status: 1")]),
            (
                "a directory of another",
                Facts { writable: no(denied), ..good() },
                &[("run directory", Broken, "/run/pepita: Permission denied")],
            ),
            ("few files", Facts { open_files: Some(256), ..good() }, &[("limits", Missing, "ulimit")]),
            (
                "a kernel without Landlock",
                Facts { jail: Ok(without_landlock()), ..good() },
                &[("jail", Missing, "landlock: this kernel has no Landlock")],
            ),
            (
                "a host without Landlock for shares",
                Facts { share_jail: Ok(without_landlock()), ..good() },
                &[("jail of shares", Missing, "landlock: this kernel has no Landlock")],
            ),
            (
                "no jail at all",
                Facts { jail: Err("no".into()), ..good() },
                &[("jail", Missing, "best-effort")],
            ),
            ("no nft", Facts { tap: no("nft not found"), ..good() }, &[("network tap", Missing, "user")]),
            (
                "nothing to boot",
                Facts { kernel: None, boot: Some(Boot::NotTried), ..good() },
                &[("kernel", Missing, "--kernel"), ("boot", Missing, "not tried")],
            ),
            (
                "the small things",
                Facts {
                    agent: Found::No,
                    mke2fs: None,
                    tsc_khz: None,
                    open_files: None,
                    boot: None,
                    ..good()
                },
                &[
                    ("guest agent", Missing, "cargo build"),
                    ("host TSC", Missing, "hang"),
                    ("mke2fs", Missing, "e2fsprogs"),
                ],
            ),
        ];
        for (host, facts, expected) in cases {
            let seen = complaints(&facts);
            assert_eq!(seen.len(), expected.len(), "{host}: {seen:?}");
            for ((what, verdict, text), (name, wanted, word)) in seen.iter().zip(expected) {
                assert_eq!((what, verdict), (name, wanted), "{host}");
                assert!(text.contains(word), "{host}: {text}");
            }
        }
    }
}
