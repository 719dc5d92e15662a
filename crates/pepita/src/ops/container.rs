//! Container images: `pepita-image` finds, pulls and unpacks them; this is what a launch makes of one.

use crate::error::{Result, call_error, io, system};
use crate::host::programs::IMAGES;
use pepita_wire::image::{ImageRecord, UsedImage};
use pepita_wire::record::{CallError, CallErrorKind};
use pepita_wire::text::shown;
use pepita_wire::{LaunchSpec, Signal};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The attempts to hold a root before another process removes it.
const TRIES: usize = 3;

/// The most bytes of an image's health check, which is kept in every record of the VM.
const HEALTH_CAP: usize = 16 << 10;

/// The most directories of an image that a record names, and the longest of them.
const UNKEPT_CAP: usize = 8;
const PATH_CAP: usize = 256;

/// The first and the last of the real-time signals that a program of the C library has.
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

/// An image whose root stays as long as this value lives.
#[derive(Debug)]
pub(crate) struct Held {
    /// The image.
    pub record: ImageRecord,
    _root: File,
}

/// Finds the image that a specification names, pulls it when it is missing, and holds its root.
///
/// # Errors
/// When the image cannot be had, or the specification contradicts itself.
pub(crate) fn hold(spec: &LaunchSpec) -> Result<Option<Held>> {
    let refused = |why: String| Err(call_error(CallErrorKind::Usage, why));
    let Some(image) = &spec.image else {
        let only_with_one = [("pull", spec.pull.is_some()), ("entrypoint", spec.entrypoint.is_some())];
        return match only_with_one.iter().find(|(_, is_named)| *is_named) {
            Some((field, _)) => refused(format!("{field}: without an image it means nothing")),
            None => Ok(None),
        };
    };
    if spec.rootfs.is_some() || spec.initrd.is_some() {
        return refused(format!(
            "image {image:?}: it is the root, so that --rootfs and --initrd cannot be named"
        ));
    }
    if spec.vmm.as_deref() == Some("process") {
        return refused(format!("image {image:?}: a plain process runs in the host's root"));
    }
    let mut last = None;
    for _ in 0..TRIES {
        let record = resolve(image, spec.pull.as_deref())?;
        match held(&record) {
            Ok(root) => return Ok(Some(Held { record, _root: root })),
            Err(e) => last = Some(io(&record.root, e)),
        }
    }
    Err(last.expect("there was an attempt"))
}

/// Holds a root by a lock. Fails when the root was removed before the lock was there.
fn held(record: &ImageRecord) -> std::io::Result<File> {
    use std::os::unix::fs::MetadataExt;
    let root = File::open(&record.root)?;
    flock(&root, FlockOperation::NonBlockingLockShared)?;
    let present = record.root.metadata()?;
    match (present.ino(), present.dev()) == (root.metadata()?.ino(), root.metadata()?.dev()) {
        true => Ok(root),
        false => Err(std::io::ErrorKind::NotFound.into()),
    }
}

fn resolve(image: &str, pull: Option<&str>) -> Result<ImageRecord> {
    let mut command = Command::new(IMAGES.require()?);
    command.args(["resolve", "--json"]);
    if let Some(pull) = pull {
        command.args(["--pull", pull]);
    }
    // A terminal is told of the progress on standard error.
    let output = command.args(["--", image]).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|e| system(IMAGES.name, e))?;
    let unreadable = |e: serde_json::Error| {
        system(IMAGES.name, format!("its answer cannot be read: {e} ({})", output.status))
    };
    match output.status.success() {
        true => serde_json::from_slice(&output.stdout).map_err(unreadable),
        false => Err(serde_json::from_slice::<CallError>(&output.stdout).map_err(unreadable)?),
    }
}

/// Returns a specification completed by what the image says, as `docker run` completes it: what the specification says
/// wins, and its command takes the place of the image's, after the entrypoint.
///
/// # Errors
/// When neither names a program.
pub(crate) fn with_image(mut spec: LaunchSpec, image: &ImageRecord) -> Result<LaunchSpec> {
    let config = &image.config;
    spec.command = match spec.entrypoint.take() {
        Some(program) => std::iter::once(program).chain(spec.command).collect(),
        None => config.command(&spec.command),
    };
    if spec.command.is_empty() {
        let why = format!("image {}: it names no program to run; name one after --", image.reference);
        return Err(call_error(CallErrorKind::Usage, why));
    }
    let mut env = config.env.clone();
    env.extend(spec.env);
    spec.env = env;
    spec.user = spec.user.or_else(|| config.user.clone());
    spec.workdir = spec.workdir.or_else(|| config.working_dir.clone());
    Ok(spec)
}

/// Returns what a VM keeps of its image, as long as it runs.
///
/// # Errors
/// When the image says what no VM can have.
pub(crate) fn used(image: &ImageRecord, kept: &[&str]) -> Result<UsedImage> {
    let bad = |why: String| call_error(CallErrorKind::BadImage, format!("image {}: {why}", image.reference));
    let config = &image.config;
    let stop_signal = config
        .stop_signal
        .as_deref()
        .map(|text| signal(text).ok_or_else(|| bad(format!("its stop signal {:?} is none", shown(text)))));
    let health = config.health.clone();
    if health.iter().flat_map(|health| &health.command).map(String::len).sum::<usize>() > HEALTH_CAP {
        return Err(bad(format!("its health check is longer than {HEALTH_CAP} bytes")));
    }
    // A path below the place of a disk is kept, too.
    let is_kept = |path: &str| {
        let path = Path::new(path);
        kept.iter().any(|mount| path.starts_with(mount))
    };
    let unkept = config.volumes.iter().filter(|path| path.len() <= PATH_CAP && !is_kept(path));
    Ok(UsedImage {
        reference: image.reference.clone(),
        digest: image.digest.clone(),
        stop_signal: stop_signal.transpose()?,
        health,
        unkept: unkept.take(UNKEPT_CAP).map(|path| shown(path)).collect(),
    })
}

/// Reads a signal as images name it: a name, a number, or one counted from the first or last of the real-time signals
/// (signal(7)), as images with systemd in them do.
fn signal(text: &str) -> Option<Signal> {
    let real_time = |bare: &str| match (bare.strip_prefix("RTMIN"), bare.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(RTMIN),
        (Some(more), _) => Some(RTMIN + more.strip_prefix('+')?.parse::<u8>().ok()?.min(30)),
        (None, Some("")) => Some(RTMAX),
        (None, Some(less)) => Some(RTMAX - less.strip_prefix('-')?.parse::<u8>().ok()?.min(30)),
        (None, None) => None,
    };
    let counted = real_time(text.strip_prefix("SIG").unwrap_or(text));
    text.parse().ok().or_else(|| Signal::new(counted?.into()))
}

/// Becomes `pepita-image` with these arguments. Returns only after a failure.
pub(crate) fn become_images(args: &[std::ffi::OsString], json: bool) -> CallError {
    let program = match IMAGES.require() {
        Ok(program) => program,
        Err(e) => return e,
    };
    let mut command = Command::new(program);
    command.args(json.then_some("--json")).args(args);
    system(IMAGES.name, command.exec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pepita_wire::image::{ImageConfig, ImageHealth};

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn variables(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn image() -> ImageRecord {
        let config = ImageConfig {
            entrypoint: words(&["entry"]),
            cmd: words(&["serve"]),
            env: variables(&[("PATH", "/image"), ("A", "1")]),
            user: Some("app".into()),
            working_dir: Some("/data".into()),
            ..ImageConfig::default()
        };
        ImageRecord { config, ..ImageRecord::default() }
    }

    #[test]
    fn what_the_user_says_wins_over_what_the_image_says() {
        let spec = with_image(LaunchSpec::default(), &image()).expect("a program");
        let expected = LaunchSpec {
            command: words(&["entry", "serve"]),
            env: image().config.env,
            user: Some("app".into()),
            workdir: Some("/data".into()),
            ..LaunchSpec::default()
        };
        assert_eq!(spec, expected);
        let own = LaunchSpec {
            command: words(&["check"]),
            env: variables(&[("A", "2")]),
            user: Some("0".into()),
            workdir: Some("/".into()),
            ..LaunchSpec::default()
        };
        let expected = LaunchSpec {
            command: words(&["entry", "check"]),
            env: variables(&[("PATH", "/image"), ("A", "2")]),
            ..own.clone()
        };
        assert_eq!(with_image(own.clone(), &image()).expect("a program"), expected);
        let other = LaunchSpec { entrypoint: Some("sh".into()), ..own };
        assert_eq!(with_image(other, &image()).expect("a program").command, words(&["sh", "check"]));
        let e = with_image(LaunchSpec::default(), &ImageRecord::default()).expect_err("no program");
        assert_eq!(e.kind, CallErrorKind::Usage);
    }

    #[test]
    fn a_vm_keeps_of_its_image_how_to_stop_it_and_what_is_not_kept() {
        let image = |stop_signal: &str| {
            let volumes = words(&["/data/db", "/cache", "/datax"]);
            let config =
                ImageConfig { stop_signal: Some(stop_signal.into()), volumes, ..ImageConfig::default() };
            ImageRecord { config, ..ImageRecord::default() }
        };
        let disks = ["/data"];
        for (text, number) in
            [("SIGINT", 2), ("TERM", 15), ("3", 3), ("SIGRTMIN+3", 37), ("RTMIN", 34), ("SIGRTMAX-1", 63)]
        {
            let used = used(&image(text), &disks).expect("a signal");
            assert_eq!(used.stop_signal, Signal::new(number), "{text}");
            assert_eq!(used.unkept, words(&["/cache", "/datax"]));
        }
        for text in ["", "SIGNONE", "0", "65", "SIGRTMIN-3", "SIGRTMIN+x"] {
            let e = used(&image(text), &[]).expect_err("no signal");
            assert_eq!(e.kind, CallErrorKind::BadImage, "{text}");
        }
        let health =
            ImageHealth { command: vec!["x".repeat(HEALTH_CAP), "x".into()], ..ImageHealth::default() };
        let config = ImageConfig { health: Some(health), ..ImageConfig::default() };
        used(&ImageRecord { config, ..ImageRecord::default() }, &[]).expect_err("too long for a record");
    }

    #[test]
    fn an_image_excludes_another_root_and_what_belongs_to_one_needs_it() {
        let image = || LaunchSpec { image: Some("app:1".into()), ..LaunchSpec::default() };
        for spec in [
            LaunchSpec { rootfs: Some("/r".into()), ..image() },
            LaunchSpec { initrd: Some("/i".into()), ..image() },
            LaunchSpec { vmm: Some("process".into()), ..image() },
            LaunchSpec { pull: Some("never".into()), ..LaunchSpec::default() },
            LaunchSpec { entrypoint: Some("sh".into()), ..LaunchSpec::default() },
        ] {
            assert_eq!(hold(&spec).expect_err("refused").kind, CallErrorKind::Usage, "{spec:?}");
        }
        assert!(hold(&LaunchSpec::default()).expect("no image").is_none());
    }
}
