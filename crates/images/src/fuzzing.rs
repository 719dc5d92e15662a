//! Opens private parsers to the fuzz targets, with what must hold for any input.

use crate::credentials::{self, Config};
use crate::error::{CallError, Result};
use crate::http::{Http, patience, token_in};
use crate::manifest::{DOCUMENT_CAP, Document, parse};
use crate::origin::Origin;
use crate::reference::OnDisk;
use crate::source::{docker_archive, oci_layout};
use crate::store::{Scratch, Store};
use oci_spec::distribution::Reference;
use std::path::{Path, PathBuf};

/// The bytes that an image may unpack to.
const CAP: u64 = 1 << 20;

/// A store of images, for the work in progress.
pub struct Place {
    store: Store,
    dir: PathBuf,
}

impl Place {
    /// Makes an empty store in a new directory.
    ///
    /// # Errors
    /// When that fails.
    pub fn new(dir: &Path) -> Result<Self> {
        Ok(Self { store: Store::open(dir)?, dir: dir.to_owned() })
    }

    fn bring(&self, scratch: &Scratch, mut origin: impl Origin) -> Result<()> {
        let Document::Manifest(manifest) = parse(&origin.manifest()?)? else {
            panic!("an origin gives the manifest of one image")
        };
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            let mut writer = self.store.begin(scratch, blob)?;
            origin.blob(blob, &mut writer, &|_| {})?;
            assert!(writer.length() <= CAP.max(blob.size));
        }
        Ok(())
    }

    /// Reads a file of `docker save`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn docker_archive(&self, file: &Path) -> Result<()> {
        let scratch = self.store.scratch()?;
        let place = OnDisk { path: file.to_owned(), tag: None };
        let archive = docker_archive::open(&place, &scratch, CAP)?;
        self.bring(&scratch, archive)
    }

    /// Reads an image layout that consists of these documents: the first is the index, and the others are blobs. A document
    /// names the digest of the next one as `sha256:@1`, that of the one after it as `sha256:@2` and so on.
    ///
    /// # Errors
    /// When it is refused.
    pub fn layout(&self, documents: &[&[u8]]) -> Result<()> {
        let scratch = self.store.scratch()?;
        let dir = self.dir.join("layout");
        let blobs = dir.join("blobs/sha256");
        let write = |path: &Path, bytes: &[u8]| std::fs::write(path, bytes).expect("room for a document");
        std::fs::create_dir_all(&blobs).expect("a directory");
        write(&dir.join("oci-layout"), b"{}");
        let mut digests: Vec<String> = Vec::new();
        for (number, document) in documents.iter().enumerate().rev() {
            let mut document = document.to_vec();
            for (ahead, digest) in digests.iter().rev().enumerate().take(9) {
                let mark = format!("sha256:@{}", ahead + 1);
                while let Some(at) = document.windows(mark.len()).position(|window| window == mark.as_bytes())
                {
                    document.splice(at..at + mark.len(), digest.bytes());
                }
            }
            let digest = crate::digest::Digest::of(&document);
            match number {
                0 => write(&dir.join("index.json"), &document),
                _ => write(&blobs.join(digest.hex()), &document),
            }
            digests.push(digest.to_string());
        }
        let opened = oci_layout::OciLayout::open(&OnDisk { path: dir.clone(), tag: None });
        let brought = opened.and_then(|layout| self.bring(&scratch, layout));
        std::fs::remove_dir_all(&dir).expect("removed");
        brought
    }
}

/// Reads what a registry or its login service answers.
pub struct Registry(Http);

impl Registry {
    /// Returns a client that has asked for an image.
    ///
    /// # Errors
    /// When there can be none.
    pub fn new() -> Result<Self> {
        let reference: Reference = "localhost:1/a".parse().expect("a reference");
        Http::new(&reference, true, &patience()).map(Self)
    }

    /// Reads the body of a refusal.
    pub fn refusal(&self, status: u16, body: &[u8]) -> CallError {
        self.0.refused(status, body).error()
    }
}

/// Reads the token in the answer of a login service.
pub fn token(body: &[u8]) {
    if let Some(token) = token_in(body) {
        assert!(token.len() <= body.len() * 3);
    }
}

/// Reads the file of `docker login`.
pub fn credentials(text: &str) {
    let Ok(config) = serde_json::from_str::<Config>(text) else { return };
    for registry in ["index.docker.io", "localhost:5000", ""] {
        if let Some(found) = credentials::stored(&config, registry) {
            assert!(found.user.len() + found.secret.len() <= text.len());
        }
    }
    const { assert!(DOCUMENT_CAP > CAP) }
}
