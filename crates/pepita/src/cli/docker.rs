//! Says how that is asked for here which people know from docker. Pure: words in, words out.

/// Calls of docker that have another name here, or none.
const CALLS: &[(&str, &str)] = &[
    (
        "build",
        "build the image with docker, podman or buildah, and take it by `pepita image import` or from a registry",
    ),
    ("compose", "a configuration of pepitad runs several VMs together"),
    ("container", "`pepita list` lists the VMs"),
    ("create", "`pepita run --hold` boots a VM without its daemon, and `pepita start` starts that"),
    ("images", "`pepita image list` lists the images"),
    ("inspect", "`pepita status NAME` is about a VM, `pepita image inspect REFERENCE` about an image"),
    ("kill", "`pepita signal --signal KILL NAME` ends a VM at once"),
    ("load", "`pepita image import FILE` takes an image from a file of `docker save`"),
    ("login", "`docker login` and its like: what they leave in docker's config.json is used"),
    ("pause", "`pepita signal --signal STOP NAME` pauses a VM"),
    ("port", "`pepita status NAME` shows the ports"),
    ("ps", "`pepita list` lists the VMs"),
    ("pull", "`pepita image pull REFERENCE` pulls an image"),
    ("restart", "`pepitactl restart VM` restarts a VM of a supervisor"),
    ("rm", "`pepita destroy NAME` stops a VM and removes all traces of it"),
    ("rmi", "`pepita image remove REFERENCE` removes an image"),
    ("stop", "`pepita destroy NAME` stops a VM and removes all traces of it"),
    ("unpause", "`pepita signal --signal CONT NAME` resumes a VM"),
    ("volume", "`pepita disk` looks after the disks, and `pepita run -v NAME:/PATH` makes one"),
];

/// What is said of a network.
const NETWORK: &str = "--network user lets the guest out, --network tap gives it an address, -p PORT:GUEST_PORT publishes a port without one, and \
                       --reach lets the daemon dial a place";
/// What is said of a health check.
const HEALTH: &str = "a supervisor makes the health checks: health.command in the configuration of pepitad";
/// What is said of capabilities.
const CAPABILITIES: &str = "a daemon has the capabilities of a container, and with --privileged all of them";
/// What is said of a terminal.
const TERMINAL: &str = "a daemon has no terminal; `pepita exec -it NAME -- sh` opens a shell in its VM";

/// Options of `docker run` that are not there.
const OPTIONS: &[(&str, &str)] = &[
    ("--add-host", NETWORK),
    ("--cap-add", CAPABILITIES),
    ("--cap-drop", CAPABILITIES),
    ("--dns", NETWORK),
    ("--health-cmd", HEALTH),
    ("--interactive", TERMINAL),
    ("--link", NETWORK),
    (
        "--mount",
        "-v NAME:/PATH and --disk keep a directory of the guest on a disk; -v ./DIR:/PATH shows one of the host, read-only \
         unless :rw is said",
    ),
    ("--net", NETWORK),
    ("--no-healthcheck", HEALTH),
    ("--platform", "guests are linux/amd64"),
    ("--publish-all", "-p PORT:GUEST_PORT publishes a port; `pepita image inspect` shows those of the image"),
    ("--restart", "a supervisor restarts VMs: restart.policy in the configuration of pepitad"),
    ("--security-opt", CAPABILITIES),
    ("--stop-signal", "`pepita destroy --signal` names the signal, and a supervisor has stop.signal"),
    ("--stop-timeout", "`pepita destroy --timeout` names the time, and a supervisor has stop.timeout"),
    ("--tmpfs", "what a VM writes is in its memory, unless a disk is there"),
    ("--tty", TERMINAL),
    ("--volumes-from", "-v NAME:/PATH keeps a directory on a disk, which one VM at a time may have"),
    ("-P", "-p PORT:GUEST_PORT publishes a port; `pepita image inspect` shows those of the image"),
    ("-i", TERMINAL),
    ("-t", TERMINAL),
];

/// Returns how that is asked for here which docker has: a call, or a word of `run` that is not known.
pub fn here(call: Option<&str>, unknown: &str) -> Option<String> {
    let find = |all: &[(&str, &str)]| {
        let found = all.iter().find(|(name, _)| *name == unknown);
        found.map(|(_, advice)| (*advice).to_owned())
    };
    match call {
        None => find(CALLS),
        Some("run") if unknown.starts_with('-') => find(OPTIONS),
        Some("run") => Some(format!("the daemon's command stands after --: pepita run IMAGE -- {unknown}")),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    #[test]
    fn what_is_known_here_is_not_explained() {
        let command = Cli::command();
        let run = command.find_subcommand("run").expect("run");
        for (name, _) in CALLS {
            assert!(command.find_subcommand(name).is_none(), "{name}");
        }
        for (name, _) in OPTIONS {
            let is_known = |arg: &clap::Arg| match name.strip_prefix("--") {
                Some(long) => arg.get_long() == Some(long),
                None => arg.get_short() == name.chars().nth(1),
            };
            assert!(!run.get_arguments().any(is_known), "{name}");
        }
    }

    #[test]
    fn what_docker_has_is_told_by_its_name_here() {
        assert!(here(None, "ps").expect("known").contains("pepita list"));
        assert!(here(Some("run"), "--restart").expect("known").contains("restart.policy"));
        assert!(here(Some("run"), "redis-server").expect("a command").ends_with("-- redis-server"));
        assert_eq!((here(None, "frobnicate"), here(Some("run"), "--nam")), (None, None));
        assert_eq!(here(Some("list"), "-t"), None);
    }
}
