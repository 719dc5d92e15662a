//! Reads manifests and indexes, of OCI and of Docker. Pure: bytes in, values out.

use crate::digest::Digest;
use crate::error::{Result, bad, shown};
use serde::Deserialize;

/// The largest manifest, index or configuration, in bytes. Registries refuse manifests of more than 4 MiB.
pub const DOCUMENT_CAP: u64 = 4 << 20;

/// The most layers that an image may have. (Docker's limit is 127.)
pub(crate) const LAYERS_CAP: usize = 512;

/// A reference to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The digest of the blob.
    pub digest: Digest,
    /// The size of the blob, in bytes.
    pub size: u64,
    /// The media type of the blob.
    #[serde(default)]
    pub media_type: String,
    /// The platform of the image that the blob describes.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// Free annotations; of them the name of an image in an OCI layout is used.
    #[serde(default)]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// The platform of an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// The operating system, such as `linux`.
    #[serde(default)]
    pub os: String,
    /// The architecture, such as `amd64`.
    #[serde(default)]
    pub architecture: String,
}

impl Platform {
    /// Returns whether guests can run programs of this platform.
    pub fn is_ours(&self) -> bool {
        self.os == "linux" && self.architecture == "amd64"
    }
}

/// A manifest, or an index of manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// The manifest of one image.
    Manifest(Manifest),
    /// Manifests of one image for several platforms.
    Index(Vec<Descriptor>),
}

/// The manifest of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image's configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u64,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// Reads a manifest or an index.
///
/// # Errors
/// When it is of another form.
pub fn parse(bytes: &[u8]) -> Result<Document> {
    let raw: Raw = serde_json::from_slice(bytes)
        .map_err(|e| bad(format!("the manifest cannot be read: {}", shown(&e.to_string()))))?;
    match raw {
        Raw { manifests: Some(manifests), .. } => Ok(Document::Index(manifests)),
        Raw { config: Some(config), layers: Some(layers), .. } => {
            if layers.len() > LAYERS_CAP {
                return Err(bad(format!("the image has more than {LAYERS_CAP} layers")));
            }
            if config.size > DOCUMENT_CAP {
                return Err(bad("the image's configuration is larger than 4 MiB"));
            }
            if let Some(foreign) = layers.iter().find(|layer| !is_layer(&layer.media_type)) {
                let kind = shown(&foreign.media_type);
                return Err(bad(format!("a layer of the kind {kind:?}: this is no container image")));
            }
            Ok(Document::Manifest(Manifest { config, layers }))
        }
        Raw { schema_version: 1, .. } => {
            Err(bad("a manifest of schema 1, which registries no longer serve; push the image again"))
        }
        Raw { .. } => Err(bad("neither a manifest nor an index of manifests")),
    }
}

/// Returns whether a media type is that of a layer: an archive of files, not encrypted, and no other artifact.
fn is_layer(media_type: &str) -> bool {
    let is_archive = media_type.contains(".layer.") || media_type.contains(".diff.tar");
    media_type.is_empty() || is_archive && media_type.contains(".tar") && !media_type.contains("encrypted")
}

/// Chooses the manifest of an index that guests can run.
///
/// # Errors
/// When there is none. The message names the platforms that are there.
pub fn choose(manifests: &[Descriptor]) -> Result<&Descriptor> {
    let ours = manifests.iter().find(|one| one.platform.as_ref().is_some_and(Platform::is_ours));
    // An index of one image need not name a platform; the image's configuration does.
    let only = || manifests.first().filter(|one| manifests.len() == 1 && one.platform.is_none());
    ours.or_else(only).ok_or_else(|| {
        let platforms = manifests.iter().filter_map(|one| one.platform.as_ref());
        let mut names: Vec<String> =
            platforms.map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
        names.sort();
        names.dedup();
        bad(format!("no image for linux/amd64, only for: {}", shown(&names.join(", "))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn descriptor(os: &str, architecture: &str) -> serde_json::Value {
        json!({ "digest": Digest::of(architecture.as_bytes()), "size": 1, "platform": { "os": os, "architecture": architecture } })
    }

    #[test]
    fn of_an_index_the_image_is_taken_that_a_guest_can_run() {
        let of = |manifests: Vec<serde_json::Value>| {
            let text = json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
            let Document::Index(index) = parse(text.as_bytes()).expect("an index") else {
                panic!("an index")
            };
            choose(&index).map(|one| one.digest.clone()).map_err(|e| e.message)
        };
        let (arm, amd) = (descriptor("linux", "arm64"), descriptor("linux", "amd64"));
        assert_eq!(of(vec![arm.clone(), descriptor("windows", "amd64"), amd]), Ok(Digest::of(b"amd64")));
        assert_eq!(of(vec![arm]), Err("no image for linux/amd64, only for: linux/arm64".into()));
        assert_eq!(of(vec![json!({ "digest": Digest::of(b"x"), "size": 1 })]), Ok(Digest::of(b"x")));
    }

    #[test]
    fn what_is_no_container_image_is_refused_in_words() {
        let refused = |text: &str| parse(text.as_bytes()).expect_err("refused").message;
        assert!(refused("[]").contains("cannot be read"));
        assert!(refused("{}").contains("neither"));
        assert!(refused(r#"{"schemaVersion":1}"#).contains("schema 1"));
        let config = json!({ "digest": Digest::of(b""), "size": 0 });
        let layer =
            json!({ "digest": Digest::of(b""), "size": 0, "mediaType": "application/vnd.cncf.helm.chart" });
        let chart = json!({ "config": config, "layers": [layer] }).to_string();
        assert!(refused(&chart).contains("no container image"));
    }
}
