//! Brings an image into the store: from a registry, an OCI layout or a docker archive.

pub(crate) mod docker_archive;
pub(crate) mod oci_layout;

use crate::digest::Digest;
use crate::error::{Result, bad};
use crate::http;
use crate::manifest::{Document, parse};
use crate::origin::Origin;
use crate::progress::Progress;
use crate::reference::Source;
use crate::registry::Registry;
use crate::store::{Named, Store, no_image};

/// What the user allows.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// Whether plain HTTP may be spoken with any registry.
    pub plain_http: bool,
    /// The bytes that an image may unpack to.
    pub max_size: u64,
}

/// Brings an image into the store, and gives it a name. Blobs that the store has are not asked for.
///
/// # Errors
/// When the image cannot be had, or is refused. A blob that was verified stays, and is not asked for again.
pub fn fetch(
    store: &Store,
    source: &Source,
    name: &str,
    allowed: &Allowed,
    progress: &Progress,
) -> Result<Named> {
    let scratch = store.scratch()?;
    let mut origin: Box<dyn Origin> = match source {
        Source::Registry(reference) => {
            progress.say(&format!("asking {}", reference.resolve_registry()));
            Box::new(Registry::new(reference, allowed.plain_http, &http::patience())?)
        }
        Source::OciLayout(place) => Box::new(oci_layout::OciLayout::open(place)?),
        Source::DockerArchive(place) => Box::new(docker_archive::open(place, &scratch, allowed.max_size)?),
        Source::Stored(digest) => {
            return store.by_digest(digest)?.ok_or_else(|| no_image(&digest.to_string()));
        }
    };
    let bytes = origin.manifest()?;
    let Document::Manifest(manifest) = parse(&bytes)? else {
        return Err(bad("an index of indexes: the image has no manifest"));
    };
    let layers = manifest.layers.len();
    for (number, blob) in manifest.layers.iter().enumerate().chain([(layers, &manifest.config)]) {
        if store.has(blob) {
            continue;
        }
        let what = match number < layers {
            true => format!("layer {} of {layers}", number + 1),
            false => "configuration".to_owned(),
        };
        let mut writer = store.begin(&scratch, blob)?;
        let size = blob.size;
        origin.blob(blob, &mut writer, &|bytes| progress.downloaded(&what, bytes, size))?;
        writer.finish()?;
    }
    let named = Named { reference: name.to_owned(), digest: Digest::of(&bytes) };
    store.put(&scratch, &bytes)?;
    Ok(named)
}

/// Gives a fetched image its name.
///
/// # Errors
/// When the name cannot be written.
pub fn name(store: &Store, named: &Named) -> Result<()> {
    store.set_name(&store.scratch()?, named)
}
