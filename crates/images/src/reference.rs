//! The names of images: references as docker has them, layouts and archives on the disk, digests.

use crate::digest::Digest;
use crate::error::{Result, bad, error, shown};
use oci_spec::distribution::Reference;
use pepita_wire::record::CallErrorKind;
use std::fmt;
use std::path::{Path, PathBuf};

/// The place that an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A registry, such as `redis:7` or `localhost:5000/team/api@sha256:…`.
    Registry(Reference),
    /// An OCI image layout: `oci:DIR[:TAG]`.
    OciLayout(OnDisk),
    /// A file of `docker save`: `docker-archive:FILE[:TAG]`.
    DockerArchive(OnDisk),
    /// An image that the store has, by the digest of its manifest or of its configuration.
    Stored(Digest),
}

/// An image in a directory or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDisk {
    /// The absolute path.
    pub path: PathBuf,
    /// The name of the image, for a place with several images.
    pub tag: Option<String>,
}

impl Source {
    /// Reads the name of an image. A relative path begins at `here`.
    ///
    /// # Errors
    /// When it is of no known form.
    pub fn parse(text: &str, here: &Path) -> Result<Self> {
        let on_disk = |rest: &str| {
            // As skopeo reads it: a colon ends the path.
            let (path, tag) = rest.split_once(':').map_or((rest, None), |(path, tag)| (path, Some(tag)));
            if path.is_empty() || tag == Some("") || text.chars().any(char::is_control) {
                return Err(usage(format!("{:?}: a path is wanted, and perhaps :TAG", shown(text))));
            }
            let path = here.join(path);
            let path = if path.file_name().is_some() { path } else { here.to_owned() };
            Ok(OnDisk { path: path.components().collect(), tag: tag.map(str::to_owned) })
        };
        if let Some(rest) = text.strip_prefix("oci:") {
            return on_disk(rest).map(Self::OciLayout);
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            return on_disk(rest).map(Self::DockerArchive);
        }
        if text.starts_with("sha256:") {
            return Digest::parse(text).map(Self::Stored).map_err(|e| usage(e.message));
        }
        let reference = text.strip_prefix("docker://").unwrap_or(text).parse::<Reference>();
        let reference = reference.map_err(|e| {
            let advice = match here.join(text) {
                path if path.is_dir() => format!("oci:{} is the image in that directory", shown(text)),
                path if path.is_file() => format!(
                    "docker-archive:{0} is the image in a file of `docker save`, and --rootfs {0} boots an initramfs or a \
                     disk",
                    shown(text)
                ),
                _ => "for example redis:7 or oci:DIR".to_owned(),
            };
            usage(format!("{:?} is no image reference: {e}; {advice}", shown(text)))
        })?;
        // The grammar takes a first part with capital letters for a registry, and the reading then takes it for a name.
        let whole = reference.whole();
        match whole.parse::<Reference>() {
            Ok(again) if again.whole() == whole => Ok(Self::Registry(reference)),
            Ok(_) | Err(_) => {
                Err(usage(format!("{:?} is no image reference: {} is no name", shown(text), shown(&whole))))
            }
        }
    }

    /// Returns the name without what docker leaves out.
    pub fn short(name: &str) -> &str {
        name.strip_prefix("docker.io/library/").or_else(|| name.strip_prefix("docker.io/")).unwrap_or(name)
    }
}

/// Writes the name in full, by which the store knows the image.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut on_disk = |scheme: &str, place: &OnDisk| {
            write!(f, "{scheme}:{}", place.path.display())?;
            place.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
        };
        match self {
            Self::Registry(reference) => f.write_str(&reference.whole()),
            Self::OciLayout(place) => on_disk("oci", place),
            Self::DockerArchive(place) => on_disk("docker-archive", place),
            Self::Stored(digest) => digest.fmt(f),
        }
    }
}

fn usage(message: String) -> crate::error::CallError {
    error(CallErrorKind::Usage, message)
}

/// Returns whether plain HTTP may be spoken with a registry without being asked for: only on loopback, where nobody
/// listens in.
pub fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.rsplit_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Chooses one of several named things by its name. A place with one image needs no name.
///
/// # Errors
/// When there is none of that name, or several and no name. The message lists the names.
pub fn choose<'a, T>(
    place: &Path,
    all: &'a [T],
    tag: Option<&str>,
    names: impl Fn(&T) -> Vec<String>,
) -> Result<&'a T> {
    let known = || {
        let mut known: Vec<String> = all.iter().flat_map(&names).collect();
        known.sort();
        known.dedup();
        shown(&known.join(", "))
    };
    let place = place.display();
    let is_meant =
        |name: &String, tag: &str| name == tag || name.rsplit_once(':').is_some_and(|(_, end)| end == tag);
    match (tag, all) {
        (None, [one]) => Ok(one),
        (None, []) => Err(bad(format!("{place}: no image in it"))),
        (None, _) => {
            Err(bad(format!("{place}: several images in it; add one of their names, as :TAG: {}", known())))
        }
        (Some(tag), _) => {
            let named = all.iter().find(|one| names(one).iter().any(|name| is_meant(name, tag)));
            named.ok_or_else(|| bad(format!("{place}: no image {:?} in it, only: {}", shown(tag), known())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Result<String, String> {
        Source::parse(text, Path::new("/here")).map(|source| source.to_string()).map_err(|e| e.message)
    }

    #[test]
    fn references_are_what_docker_takes_them_for() {
        let digest = Digest::of(b"").to_string();
        for (text, full) in [
            ("redis", "docker.io/library/redis:latest"),
            ("redis:7", "docker.io/library/redis:7"),
            ("docker://bitnami/redis", "docker.io/bitnami/redis:latest"),
            ("localhost:5000/redis:7", "localhost:5000/redis:7"),
            ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
            ("oci:layout", "oci:/here/layout"),
            ("oci:/a/layout:7", "oci:/a/layout:7"),
            ("oci:.", "oci:/here"),
            ("docker-archive:x.tar:redis:7", "docker-archive:/here/x.tar:redis:7"),
            (&digest, &digest),
        ] {
            assert_eq!(name(text), Ok(full.to_owned()), "{text}");
        }
        for text in
            ["", "oci:", "oci:x:", "UPPER:x", "a b", "sha256:12", "docker-archive:", "x@sha256:12", "Upper/x"]
        {
            assert!(name(text).is_err(), "{text}");
        }
        assert_eq!(Source::short("docker.io/library/redis:7"), "redis:7");
    }

    #[test]
    fn a_path_is_told_how_it_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("d")).expect("made");
        std::fs::write(dir.path().join("f"), "").expect("written");
        let said = |text: &str| Source::parse(text, dir.path()).expect_err("no reference").message;
        assert!(said("./d").contains("oci:./d"), "{}", said("./d"));
        assert!(said("./f").contains("docker-archive:./f") && said("./f").contains("--rootfs ./f"));
        assert!(said("./g").contains("for example"));
    }

    #[test]
    fn plain_http_is_for_loopback() {
        for registry in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(registry), "{registry}");
        }
        for registry in
            ["docker.io", "localhost.evil.org", "10.0.0.1:5000", "[fe80::1]:1", "127.0.0.1.evil.org:80"]
        {
            assert!(!is_loopback(registry), "{registry}");
        }
    }

    #[test]
    fn one_image_needs_no_name_and_several_do() {
        let names = |name: &&str| vec![(*name).to_owned()];
        let of = |all: &[&'static str], tag| {
            choose(Path::new("/x"), all, tag, names).copied().map_err(|e| e.message)
        };
        assert_eq!(of(&["a:1"], None), Ok("a:1"));
        assert_eq!(
            (of(&["a:1", "b:2"], Some("2")), of(&["a:1", "b:2"], Some("a:1"))),
            (Ok("b:2"), Ok("a:1"))
        );
        assert!(of(&["a:1", "b:2"], None).expect_err("several").contains("a:1, b:2"));
        assert!(of(&["a:1"], Some("3")).is_err() && of(&[], None).is_err());
    }
}
