//! The store of images in the data directory: blobs by digest, one root for each image, names.
//!
//! Everything is complete or absent: it is written in a scratch directory, verified, and renamed into place. Whoever
//! adds something holds the store's lock together with others; whoever removes something holds it alone. A VM that runs
//! an image holds the image's root by the lock that QEMU puts on the file.

use crate::config;
use crate::digest::{Digest, Hash};
use crate::error::{Result, bad, error, io, shown};
use crate::ext4::Ext4;
use crate::layer::{self, Spool};
use crate::manifest::{DOCUMENT_CAP, Descriptor, Document, Manifest, parse};
use crate::progress::Progress;
use crate::root;
use crate::tree::Tree;
use nix::fcntl::{FcntlArg, fcntl};
use pepita_wire::image::{ImageConfig, ImageRecord};
use pepita_wire::record::CallErrorKind;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The directories of the store.
const BLOBS: &str = "blobs/sha256";
const ROOTS: &str = "roots";
const NAMES: &str = "names";
const LOCKS: &str = "locks";
/// The prefix of directories for work in progress.
const SCRATCH: &str = ".scratch-";

/// A name of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Named {
    /// The name in full.
    pub reference: String,
    /// The digest of the image's manifest.
    pub digest: Digest,
}

/// The store of images, locked together with others that add to it.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    lock: File,
}

/// Files and bytes that were removed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// The number of images.
    pub images: usize,
    /// The bytes on the disk.
    pub bytes: u64,
}

impl Store {
    /// Returns the directory of the store.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the store in a directory, which is made when it is missing. Work that was left unfinished is removed.
    ///
    /// # Errors
    /// When the directory cannot be made or locked.
    pub fn open(dir: &Path) -> Result<Self> {
        for part in [BLOBS, ROOTS, NAMES, LOCKS] {
            let part = dir.join(part);
            DirBuilder::new().recursive(true).mode(0o700).create(&part).map_err(|e| io(&part, e))?;
        }
        let path = dir.join("lock");
        let lock = lock_file(&path)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Nobody else is at work.
            for entry in std::fs::read_dir(dir).map_err(|e| io(dir, e))?.flatten() {
                if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
                    let _ = std::fs::remove_dir_all(entry.path());
                }
            }
        }
        flock(&lock, FlockOperation::LockShared).map_err(|e| io(&path, e))?;
        Ok(Self { dir: dir.to_owned(), lock })
    }

    /// Makes a directory for work in progress. Dropping it removes it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<Scratch> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| error(CallErrorKind::Internal, e.to_string()))?;
        let path = self.dir.join(format!("{SCRATCH}{:016x}", u64::from_ne_bytes(random)));
        DirBuilder::new().mode(0o700).create(&path).map_err(|e| io(&path, e))?;
        Ok(Scratch(path))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(BLOBS).join(digest.hex())
    }

    fn root_path(&self, id: &Digest) -> PathBuf {
        self.dir.join(ROOTS).join(format!("{}.ext4", id.hex()))
    }

    fn name_path(&self, reference: &str) -> PathBuf {
        self.dir.join(NAMES).join(format!("{}.json", Digest::of(reference.as_bytes()).hex()))
    }

    /// Returns whether the store has a blob. A blob is verified before it is in the store.
    pub fn has(&self, blob: &Descriptor) -> bool {
        self.blob_path(&blob.digest).metadata().is_ok_and(|meta| meta.len() == blob.size)
    }

    /// Begins to write a blob.
    ///
    /// # Errors
    /// When its file cannot be made.
    pub fn begin(&self, scratch: &Scratch, blob: &Descriptor) -> Result<BlobWriter> {
        let path = scratch.0.join(blob.digest.hex());
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(|e| io(&path, e))?;
        let target = self.blob_path(&blob.digest);
        Ok(BlobWriter { path, target, file, hash: Hash::default(), length: 0, blob: blob.clone() })
    }

    /// Puts a document into the store.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, scratch: &Scratch, bytes: &[u8]) -> Result<Digest> {
        let blob = descriptor(bytes);
        if !self.has(&blob) {
            let mut writer = self.begin(scratch, &blob)?;
            writer.write(bytes)?;
            writer.finish()?;
        }
        Ok(blob.digest)
    }

    fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(|e| io(&path, e))?;
        file.take(DOCUMENT_CAP + 1).read_to_end(&mut bytes).map_err(|e| io(&path, e))?;
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(bad(format!(
                "{}: it is damaged; `pepita image remove` the image and pull it again",
                path.display()
            ))),
        }
    }

    /// Returns the manifest with this digest, if the store has it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn manifest(&self, digest: &Digest) -> Result<Option<Manifest>> {
        if !self.blob_path(digest).exists() {
            return Ok(None);
        }
        match parse(&self.document(digest)?)? {
            Document::Manifest(manifest) => Ok(Some(manifest)),
            Document::Index(_) => Ok(None),
        }
    }

    /// Returns whether the store has all blobs of an image.
    pub fn is_complete(&self, manifest: &Manifest) -> bool {
        self.has(&manifest.config) && manifest.layers.iter().all(|layer| self.has(layer))
    }

    /// Returns every name, sorted. A file that cannot be read is left out.
    pub fn names(&self) -> Vec<Named> {
        let entries = std::fs::read_dir(self.dir.join(NAMES)).into_iter().flatten().flatten();
        let read = |path: PathBuf| serde_json::from_slice::<Named>(&std::fs::read(path).ok()?).ok();
        let mut names: Vec<Named> = entries.filter_map(|entry| read(entry.path())).collect();
        names.sort();
        names
    }

    /// Returns the image of a name.
    pub fn named(&self, reference: &str) -> Option<Named> {
        serde_json::from_slice(&std::fs::read(self.name_path(reference)).ok()?).ok()
    }

    /// Finds an image by the digest of its manifest or of its configuration.
    ///
    /// # Errors
    /// When a file of the store cannot be read.
    pub fn by_digest(&self, wanted: &Digest) -> Result<Option<Named>> {
        for named in self.names() {
            let has_id = || {
                Ok::<_, crate::error::CallError>(
                    self.manifest(&named.digest)?.is_some_and(|m| m.config.digest == *wanted),
                )
            };
            if named.digest == *wanted || has_id()? {
                return Ok(Some(named));
            }
        }
        // An image that has lost its last name is found by its manifest until it is pruned.
        let nameless = self.manifest(wanted)?.filter(|manifest| self.is_complete(manifest));
        Ok(nameless.map(|_| Named { reference: wanted.to_string(), digest: wanted.clone() }))
    }

    /// Gives an image a name, which it takes from another image.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_name(&self, scratch: &Scratch, named: &Named) -> Result<()> {
        let json = serde_json::to_vec(named).expect("a name becomes JSON");
        let (beside, target) = (scratch.0.join("name"), self.name_path(&named.reference));
        let write = || {
            let mut file = File::create(&beside)?;
            file.write_all(&json)?;
            file.sync_all()?;
            std::fs::rename(&beside, &target)
        };
        write().map_err(|e| io(&target, e))
    }

    /// Waits until no other process brings the image of a name, or makes its root. The turn ends with the returned file.
    ///
    /// # Errors
    /// When the lock cannot be made.
    pub fn turn(&self, name: &str, progress: &Progress) -> Result<File> {
        let path = self.dir.join(LOCKS).join(Digest::of(name.as_bytes()).hex());
        let lock = lock_file(&path)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            progress.say("waiting for another process, which brings the same image");
            flock(&lock, FlockOperation::LockExclusive).map_err(|e| io(&path, e))?;
        }
        Ok(lock)
    }

    /// Returns the image with its root, which is made when it is missing.
    ///
    /// # Errors
    /// When a layer is damaged or refused, or the root cannot be written. Nothing of it is left then.
    pub fn ready(&self, named: &Named, cap: u64, progress: &Progress) -> Result<ImageRecord> {
        let manifest = self
            .manifest(&named.digest)?
            .ok_or_else(|| bad(format!("{}: its manifest is gone", named.reference)))?;
        let (config, diff_ids) = config::parse(&self.document(&manifest.config.digest)?)?;
        let id = &manifest.config.digest;
        let root = self.root_path(id);
        if !root.exists() {
            let _turn = self.turn(&id.to_string(), progress)?;
            // Another process may have made it meanwhile.
            if !root.exists() {
                self.make_root(&manifest, &diff_ids, cap, &root, progress)?;
            }
        }
        self.record(named, id, config)
    }

    fn record(&self, named: &Named, id: &Digest, config: ImageConfig) -> Result<ImageRecord> {
        let root = self.root_path(id);
        let size = root.metadata().map_or(0, |meta| meta.blocks() * 512);
        Ok(ImageRecord {
            reference: named.reference.clone(),
            digest: named.digest.to_string(),
            id: id.to_string(),
            root,
            size,
            config,
        })
    }

    /// Returns what is known of an image, without making its root.
    ///
    /// # Errors
    /// When a file of the store cannot be read.
    pub fn inspect(&self, named: &Named) -> Result<ImageRecord> {
        let manifest = self
            .manifest(&named.digest)?
            .ok_or_else(|| bad(format!("{}: its manifest is gone", named.reference)))?;
        let (config, _) = config::parse(&self.document(&manifest.config.digest)?)?;
        self.record(named, &manifest.config.digest, config)
    }

    fn make_root(
        &self,
        manifest: &Manifest,
        diff_ids: &[Digest],
        cap: u64,
        target: &Path,
        progress: &Progress,
    ) -> Result<()> {
        if diff_ids.len() != manifest.layers.len() {
            let (layers, ids) = (manifest.layers.len(), diff_ids.len());
            return Err(bad(format!("the image has {layers} layers, and its configuration names {ids}")));
        }
        let scratch = self.scratch()?;
        let mut spool = Spool::create(&scratch.0.join("spool"), cap)?;
        let mut tree = Tree::default();
        for (number, (layer, diff_id)) in manifest.layers.iter().zip(diff_ids).enumerate() {
            progress.say(&format!("unpacking layer {} of {}", number + 1, diff_ids.len()));
            let digest = layer.digest.to_string();
            let unpacked = layer::apply(&mut tree, &mut spool, &self.blob_path(&layer.digest), &digest)?;
            if unpacked != *diff_id {
                let why = "unpacked it has another digest than the image's configuration says";
                return Err(bad(format!("layer {digest}: {why}")));
            }
        }
        spool.flush()?;
        progress.say("writing the root");
        let path = scratch.0.join("root.ext4");
        let ext4 = Ext4::create(&path, spool.length(), tree.count())?;
        root::write(&tree, &spool, Box::new(ext4))?;
        std::fs::rename(&path, target).map_err(|e| io(target, e))
    }

    /// Removes a name, and what no other name needs.
    ///
    /// # Errors
    /// When there is no such name, a VM runs its image, or the files cannot be removed.
    pub fn remove(self, reference: &str) -> Result<Removed> {
        let named = self.named(reference).ok_or_else(|| no_image(reference))?;
        self.alone()?;
        let others = self
            .names()
            .into_iter()
            .any(|other| other.reference != reference && other.digest == named.digest);
        if !others
            && let Some(manifest) = self.manifest(&named.digest)?
            && is_used(&self.root_path(&manifest.config.digest))
        {
            let why = format!("{reference}: a VM runs it; end the VM first");
            return Err(error(CallErrorKind::TryAgain, why));
        }
        let path = self.name_path(reference);
        std::fs::remove_file(&path).map_err(|e| io(&path, e))?;
        self.sweep()
    }

    /// Removes images that have no name, or with `all` those that no VM runs. An image that a VM runs stays.
    ///
    /// # Errors
    /// When files cannot be removed.
    pub fn prune(self, all: bool) -> Result<Removed> {
        self.alone()?;
        if all {
            for named in self.names() {
                let manifest = self.manifest(&named.digest).ok().flatten();
                let is_used =
                    manifest.is_some_and(|manifest| is_used(&self.root_path(&manifest.config.digest)));
                if !is_used {
                    let path = self.name_path(&named.reference);
                    std::fs::remove_file(&path).map_err(|e| io(&path, e))?;
                }
            }
        }
        self.sweep()
    }

    /// Removes what no name leads to, after an image was refused. While others are at work, a later call does it.
    pub fn forget(&self) {
        if flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = self.sweep();
            let _ = flock(&self.lock, FlockOperation::LockShared);
        }
    }

    /// Waits until nobody else is at work.
    fn alone(&self) -> Result<()> {
        flock(&self.lock, FlockOperation::LockExclusive).map_err(|e| io(&self.dir, e))
    }

    /// Removes blobs and roots that no name leads to. A root that a VM has stays, with nothing else of its image.
    fn sweep(&self) -> Result<Removed> {
        let (mut blobs, mut roots) = (BTreeSet::new(), BTreeSet::new());
        for named in self.names() {
            let Some(manifest) = self.manifest(&named.digest)? else { continue };
            roots.insert(format!("{}.ext4", manifest.config.digest.hex()));
            blobs.insert(named.digest.hex().to_owned());
            let parts = manifest.layers.iter().chain([&manifest.config]);
            blobs.extend(parts.map(|part| part.digest.hex().to_owned()));
        }
        let mut removed = Removed::default();
        for (part, kept) in [(ROOTS, &roots), (BLOBS, &blobs)] {
            let dir = self.dir.join(part);
            for entry in std::fs::read_dir(&dir).map_err(|e| io(&dir, e))?.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if kept.contains(&name) || part == ROOTS && is_used(&entry.path()) {
                    continue;
                }
                let bytes = entry.metadata().map_or(0, |meta| meta.blocks() * 512);
                std::fs::remove_file(entry.path()).map_err(|e| io(&entry.path(), e))?;
                removed.images += usize::from(part == ROOTS);
                removed.bytes += bytes;
            }
        }
        Ok(removed)
    }
}

/// Returns the error about an image that is not in the store.
pub fn no_image(reference: &str) -> crate::error::CallError {
    bad(format!("no image {:?} here; `pepita image list` lists the images", shown(reference)))
}

fn lock_file(path: &Path) -> Result<File> {
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path);
    file.map_err(|e| io(path, e))
}

/// Returns the descriptor of some bytes.
pub fn descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        media_type: String::new(),
        platform: None,
        annotations: None,
    }
}

/// Returns whether a VM has a root: QEMU holds a lock on a part of the file, and a launch on the file.
pub fn is_used(root: &Path) -> bool {
    let Ok(file) = File::options().read(true).write(true).open(root) else { return false };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return true;
    }
    let mut whole = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // A file that cannot be asked about is left where it is.
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut whole)).is_err() || whole.l_type != nix::libc::F_UNLCK as i16
}

/// A directory for work in progress.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A blob that is being written. It is in the store only after [`BlobWriter::finish`].
#[derive(Debug)]
pub struct BlobWriter {
    path: PathBuf,
    target: PathBuf,
    file: File,
    hash: Hash,
    length: u64,
    blob: Descriptor,
}

impl BlobWriter {
    /// Returns the number of bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// When they cannot be written, or there are more than the blob has.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.length += bytes.len() as u64;
        if self.length > self.blob.size {
            return Err(bad(format!(
                "{}: more than its {} bytes are sent",
                self.blob.digest, self.blob.size
            )));
        }
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(|e| io(&self.path, e))
    }

    /// Forgets what was written.
    ///
    /// # Errors
    /// When the file cannot be cut.
    pub fn restart(&mut self) -> Result<()> {
        use std::io::Seek;
        let cut = self.file.set_len(0).and_then(|()| self.file.rewind());
        cut.map_err(|e| io(&self.path, e))?;
        (self.hash, self.length) = (Hash::default(), 0);
        Ok(())
    }

    /// Copies a blob from a reader.
    ///
    /// # Errors
    /// When that fails.
    pub fn copy(&mut self, from: &mut dyn Read, place: &Path) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match from.read(&mut buffer).map_err(|e| io(place, e))? {
                0 => return Ok(()),
                n => self.write(&buffer[..n])?,
            }
        }
    }

    /// Verifies the blob and puts it into the store.
    ///
    /// # Errors
    /// When its bytes are not those of its digest, or it cannot be renamed.
    pub fn finish(self) -> Result<()> {
        let Self { path, target, file, hash, length, blob } = self;
        if length != blob.size {
            return Err(bad(format!("{}: it has {length} bytes instead of {}", blob.digest, blob.size)));
        }
        let digest = hash.finish();
        if digest != blob.digest {
            return Err(bad(format!("{}: its contents have the digest {digest}", blob.digest)));
        }
        file.sync_all().and_then(|()| std::fs::rename(&path, &target)).map_err(|e| io(&target, e))
    }
}
