//! Reads an OCI image layout: a directory with `index.json` and `blobs`, as skopeo, umoci and buildah write it.

use crate::digest::Digest;
use crate::error::{Result, bad, io};
use crate::manifest::{DOCUMENT_CAP, Descriptor, Document, choose, parse};
use crate::origin::Origin;
use crate::reference::{self, OnDisk};
use crate::store::BlobWriter;
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The annotation with the name of an image (OCI image specification, "Pre-Defined Annotation Keys").
const NAME: &str = "org.opencontainers.image.ref.name";

/// The most indexes that lead to each other.
const DEPTH_CAP: usize = 4;

pub(crate) struct OciLayout {
    dir: PathBuf,
    tag: Option<String>,
}

impl OciLayout {
    pub(crate) fn open(place: &OnDisk) -> Result<Self> {
        match place.path.join("oci-layout").exists() {
            true => Ok(Self { dir: place.path.clone(), tag: place.tag.clone() }),
            false => {
                let why = "no OCI image layout (it has no file \"oci-layout\")";
                Err(bad(format!("{}: {why}", place.path.display())))
            }
        }
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let path = self.blob_path(&descriptor.digest);
        let bytes = read(&path)?;
        match Digest::of(&bytes) == descriptor.digest {
            true => Ok(bytes),
            false => Err(bad(format!("{}: its contents have another digest than its name", path.display()))),
        }
    }
}

/// Opens a file of the layout. A pipe would wait for a writer for ever, and a link may lead anywhere.
fn open(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty()).map_err(|e| match e {
        rustix::io::Errno::NOENT | rustix::io::Errno::LOOP => bad(format!("{}: {e}", path.display())),
        e => io(path, e),
    })?);
    match file.metadata().map_err(|e| io(path, e))?.is_file() {
        true => Ok(file),
        false => Err(bad(format!("{}: it is no file", path.display()))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(DOCUMENT_CAP + 1).read_to_end(&mut bytes).map_err(|e| io(path, e))?;
    match bytes.len() as u64 > DOCUMENT_CAP {
        true => Err(bad(format!("{}: larger than 4 MiB", path.display()))),
        false => Ok(bytes),
    }
}

impl Origin for OciLayout {
    fn manifest(&mut self) -> Result<Vec<u8>> {
        let path = self.dir.join("index.json");
        let Document::Index(index) = parse(&read(&path)?)? else {
            return Err(bad(format!("{}: no index of images", path.display())));
        };
        let names = |one: &Descriptor| {
            one.annotations.iter().flat_map(|all| all.get(NAME)).cloned().collect::<Vec<String>>()
        };
        let mut chosen = match (&self.tag, choose(&index)) {
            // A layout may have one image for several platforms and no name.
            (None, Ok(ours)) if index.iter().all(|one| names(one).is_empty()) => ours.clone(),
            _ => reference::choose(&self.dir, &index, self.tag.as_deref(), names)?.clone(),
        };
        for _ in 0..DEPTH_CAP {
            let bytes = self.document(&chosen)?;
            match parse(&bytes)? {
                Document::Manifest(_) => return Ok(bytes),
                Document::Index(index) => chosen = choose(&index)?.clone(),
            }
        }
        Err(bad(format!("{}: its indexes lead from one to the next", self.dir.display())))
    }

    fn blob(&mut self, blob: &Descriptor, into: &mut BlobWriter, told: &dyn Fn(u64)) -> Result<()> {
        let path = self.blob_path(&blob.digest);
        into.copy(&mut open(&path)?, &path)?;
        told(into.length());
        Ok(())
    }
}
