//! Finds the word or key that was probably meant.

/// Signals that may have been meant; every other signal is read as well.
pub(super) const SIGNALS: [&str; 7] = ["TERM", "INT", "HUP", "QUIT", "KILL", "USR1", "USR2"];

/// Keys of docker's compose files that have another name here, or none.
const COMPOSE: &[(&str, &str)] = &[
    (
        "build",
        "image = \"redis:7\" names an image that docker, podman or buildah has made; a tag stands behind the colon",
    ),
    ("container_name", "name is the VM's name"),
    ("cap_add", "a daemon has the capabilities of a container, and with privileged = true all of them"),
    ("cap_drop", "a daemon has the capabilities of a container, and with privileged = true all of them"),
    ("configs", "secrets = [\"NAME=FILE\"] hands files to the daemon"),
    ("depends_on", "VMs start in the order of the file, and groups after those of their key after"),
    ("deploy", "each VM has an entry of its own"),
    ("entrypoint", "command takes the place of the image's command"),
    ("environment", "env = { NAME = \"value\" } sets environment variables"),
    ("expose", "publish = [\"127.0.0.1:8080:80\"] publishes a port of the guest"),
    ("healthcheck", "health.command, health.tcp or health.http probes the daemon"),
    ("links", "reach = [\"db:5432\"] lets the daemon dial a VM of this file"),
    ("mem_limit", "memory_mb is the VM's memory"),
    ("memory", "memory_mb is the VM's memory"),
    (
        "network_mode",
        "reach = [\"db:5432\"] lets the daemon dial a VM of this file, publish makes ports of the guest known, and network \
         gives the guest a network card",
    ),
    (
        "networks",
        "reach = [\"db:5432\"] lets the daemon dial a VM of this file, publish makes ports of the guest known, and network \
         gives the guest a network card",
    ),
    ("ports", "publish = [\"127.0.0.1:8080:80\"] publishes a port of the guest"),
    ("restart_policy", "restart.policy says when a VM starts again"),
    ("services", "a [[group]] has its VMs as [[group.vm]]"),
    ("stop_grace_period", "stop.timeout is the time that a daemon has to end"),
    ("stop_signal", "stop.signal is the signal that ends the daemon"),
    ("stdin_open", "a daemon has no input; `pepitactl exec -i -t VM -- sh` is a shell beside it"),
    ("tmpfs", "what a VM writes is in its memory, unless a [[group.vm.disk]] is there"),
    ("tty", "a daemon has no terminal; `pepitactl exec -i -t VM -- sh` is a shell beside it"),
    (
        "volumes",
        "[[group.vm.disk]] keeps a directory of the guest, and [[group.vm.share]] shows one of the host",
    ),
    ("working_dir", "workdir is the daemon's working directory"),
];

/// Returns how that is written here which has this key in a compose file.
pub(super) fn of_compose(written: &str) -> Option<&'static str> {
    COMPOSE.iter().find(|(key, _)| *key == written).map(|(_, here)| *here)
}

/// Returns the word nearest to what was written, if one is near enough to have been meant.
pub(super) fn nearest<'w>(written: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    // A text of this length is no typing mistake, and the time to compute the distance grows with the product of the
    // lengths.
    if written.len() > 64 {
        return None;
    }
    let written = written.to_ascii_lowercase();
    let distance = |word: &&str| strsim::damerau_levenshtein(&written, &word.to_ascii_lowercase());
    let nearest = words.into_iter().min_by_key(distance)?;
    (distance(&nearest) <= (written.chars().count() / 3).max(1)).then_some(nearest)
}

/// Returns the key that was probably meant in a table. `here` are the keys of the table, `below` the full names of all keys
/// in it and in its tables: a key may have been written in a table too high.
pub(super) fn nearest_key<'k>(
    written: &str,
    here: &[&'k str],
    below: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    let mut deeper: Vec<&str> = below.into_iter().filter_map(|full| tables(full, written)).collect();
    deeper.sort_unstable();
    deeper.dedup();
    match deeper[..] {
        [only] => Some(only),
        // A key that several tables have is no hint.
        _ => nearest(written, here.iter().copied()),
    }
}

/// Returns the front part of a dotted name up to the part `written`, if that part stands below the first part.
fn tables<'k>(full: &'k str, written: &str) -> Option<&'k str> {
    let ends = full.match_indices('.').map(|(at, _)| at).chain([full.len()]);
    let mut paths = ends.map(|end| &full[..end]);
    paths.find(|path| path.rsplit_once('.').is_some_and(|(_, last)| last == written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_offered_and_what_is_far_is_not() {
        for (written, meant) in [
            ("allways", Some("always")),
            ("on_failure", Some("on-failure")),
            ("OnFailure", Some("on-failure")),
            ("Never", Some("never")),
            ("sometimes", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, ["always", "on-failure", "never"]), meant, "{written}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), ["x"]), None);
    }

    #[test]
    fn a_key_one_table_too_high_is_shown_the_way_down() {
        let here = ["name", "restart", "stop", "health"];
        let below = ["name", "restart.policy", "restart.backoff.jitter", "stop.timeout", "health.timeout"];
        for (written, meant) in [
            ("policy", Some("restart.policy")),
            ("jitter", Some("restart.backoff.jitter")),
            ("backoff", Some("restart.backoff")),
            ("nmae", Some("name")),
            ("timeout", None),
            ("vm", None),
        ] {
            assert_eq!(nearest_key(written, &here, below), meant, "{written}");
        }
    }
}
