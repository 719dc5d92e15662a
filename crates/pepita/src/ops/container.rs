//! Container images: `pepita-image` finds, pulls and unpacks them; this is what a launch makes of one.

use crate::error::{Result, call_error, io, system};
use crate::host::programs::IMAGES;
use pepita_wire::LaunchSpec;
use pepita_wire::image::ImageRecord;
use pepita_wire::record::{CallError, CallErrorKind};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// The attempts to hold a root before another process removes it.
const TRIES: usize = 3;

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
    use pepita_wire::image::ImageConfig;

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
