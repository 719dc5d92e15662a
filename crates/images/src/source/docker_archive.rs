//! Reads a file of `docker save`: a tar archive with `manifest.json`, configurations and layers. Nothing of it is
//! unpacked: blobs are read where they lie.

use crate::digest::{Digest, Hashing};
use crate::error::{Result, bad, io, shown};
use crate::layer::{Compression, compression};
use crate::manifest::{DOCUMENT_CAP, Descriptor};
use crate::origin::Origin;
use crate::reference::{self, OnDisk};
use crate::store::{BlobWriter, Scratch};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The most members that an archive may have.
const MEMBERS_CAP: usize = 10_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// A part of the file.
#[derive(Debug, Clone, Copy)]
struct Part {
    at: u64,
    length: u64,
}

pub(super) struct DockerArchive {
    path: PathBuf,
    file: File,
    manifest: Vec<u8>,
    parts: BTreeMap<Digest, Part>,
}

pub(super) fn open(place: &OnDisk, scratch: &Scratch, cap: u64) -> Result<DockerArchive> {
    let path = place.path.clone();
    let meta = path.metadata().map_err(|e| bad(format!("{}: {e}", path.display())))?;
    if !meta.is_file() {
        return Err(bad(format!("{}: it is no file of `docker save`", path.display())));
    }
    let mut file = File::open(&path).map_err(|e| io(&path, e))?;
    let mut head = [0; 4];
    let read = file.read(&mut head).map_err(|e| io(&path, e))?;
    file.seek(SeekFrom::Start(0)).map_err(|e| io(&path, e))?;
    let file = match compression(&head[..read]) {
        Compression::None => file,
        Compression::Gzip => {
            unpack(flate2::bufread::MultiGzDecoder::new(BufReader::new(file)), &path, scratch, cap)?
        }
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::new(file).map_err(|e| io(&path, e))?;
            unpack(decoder, &path, scratch, cap)?
        }
    };
    let members = members(&file, &path)?;
    let member = |name: &str| {
        let found = find(&members, name);
        found.ok_or_else(|| {
            bad(format!("{}: no {:?} in it; is it of `docker save`?", path.display(), shown(name)))
        })
    };
    let index = document(&file, member("manifest.json")?, &path)?;
    let saved: Vec<Saved> = serde_json::from_slice(&index)
        .map_err(|e| bad(format!("{}: manifest.json: {}", path.display(), shown(&e.to_string()))))?;
    let names = |saved: &Saved| saved.repo_tags.clone().unwrap_or_default();
    let chosen = reference::choose(&path, &saved, place.tag.as_deref(), names)?;
    let mut parts = BTreeMap::new();
    let mut describe = |name: &str, kind: &str| {
        let part = member(name)?;
        let (digest, size) = Hashing::new(reader(&file, part)).finish().map_err(|e| io(&path, e))?;
        let described = json!({ "mediaType": kind, "digest": digest, "size": size });
        parts.insert(digest, part);
        Ok::<_, crate::error::CallError>(described)
    };
    let config = describe(&chosen.config, "application/vnd.oci.image.config.v1+json")?;
    let layers = chosen.layers.iter().map(|layer| describe(layer, "application/vnd.oci.image.layer.v1.tar"));
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers }).to_string().into_bytes();
    Ok(DockerArchive { path, file, manifest, parts })
}

/// Unpacks a compressed archive into the scratch directory.
fn unpack(from: impl Read, path: &Path, scratch: &Scratch, cap: u64) -> Result<File> {
    let target = scratch.path().join("archive");
    let mut file =
        File::options().read(true).write(true).create_new(true).open(&target).map_err(|e| io(&target, e))?;
    let mut from = from.take(cap + 1);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = from
            .read(&mut buffer)
            .map_err(|e| bad(format!("{}: {}", path.display(), shown(&e.to_string()))))?;
        if n == 0 {
            break;
        }
        std::io::Write::write_all(&mut file, &buffer[..n]).map_err(|e| io(&target, e))?;
    }
    if from.limit() == 0 {
        return Err(bad(format!(
            "{}: it unpacks to more than {} MiB (--max-size)",
            path.display(),
            cap >> 20
        )));
    }
    file.seek(SeekFrom::Start(0)).map_err(|e| io(&target, e))?;
    Ok(file)
}

/// A member of the archive: a part of the file, or the name of another member. (Older versions of docker save a layer
/// that several images have once, with links to it.)
#[derive(Debug, Clone)]
enum Member {
    Part(Part),
    Link(String),
}

fn members(file: &File, path: &Path) -> Result<BTreeMap<String, Member>> {
    let damaged = |e: std::io::Error| bad(format!("{}: {}", path.display(), shown(&e.to_string())));
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let member = match entry.header().entry_type() {
            tar::EntryType::Regular => {
                Member::Part(Part { at: entry.raw_file_position(), length: entry.size() })
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                Member::Link(String::from_utf8_lossy(&target).into_owned())
            }
            _ => continue,
        };
        members.insert(name, member);
        if members.len() > MEMBERS_CAP {
            return Err(bad(format!("{}: more than {MEMBERS_CAP} members", path.display())));
        }
    }
    Ok(members)
}

/// Finds a member. A link leads to another member, never to a file of the host.
fn find(members: &BTreeMap<String, Member>, name: &str) -> Option<Part> {
    match members.get(name)? {
        Member::Part(part) => Some(*part),
        Member::Link(target) => {
            let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
            let mut names: Vec<&str> = dir.split('/').filter(|name| !name.is_empty()).collect();
            for step in target.split('/') {
                match step {
                    "" | "." => {}
                    ".." => drop(names.pop()),
                    step => names.push(step),
                }
            }
            match members.get(&names.join("/"))? {
                Member::Part(part) => Some(*part),
                Member::Link(_) => None,
            }
        }
    }
}

struct PartReader<'a> {
    file: &'a File,
    part: Part,
}

fn reader(file: &File, part: Part) -> PartReader<'_> {
    PartReader { file, part }
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.part.length).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read_at(&mut buffer[..most], self.part.at)?;
        if n == 0 && most > 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        (self.part.at, self.part.length) = (self.part.at + n as u64, self.part.length - n as u64);
        Ok(n)
    }
}

fn document(file: &File, part: Part, path: &Path) -> Result<Vec<u8>> {
    if part.length > DOCUMENT_CAP {
        return Err(bad(format!("{}: a document in it is larger than 4 MiB", path.display())));
    }
    let mut bytes = Vec::new();
    reader(file, part).read_to_end(&mut bytes).map_err(|e| io(path, e))?;
    Ok(bytes)
}

impl Origin for DockerArchive {
    fn manifest(&mut self) -> Result<Vec<u8>> {
        Ok(self.manifest.clone())
    }

    fn blob(&mut self, blob: &Descriptor, into: &mut BlobWriter, told: &dyn Fn(u64)) -> Result<()> {
        let part = self
            .parts
            .get(&blob.digest)
            .ok_or_else(|| bad(format!("{}: not in the archive", blob.digest)))?;
        into.copy(&mut reader(&self.file, *part), &self.path)?;
        told(into.length());
        Ok(())
    }
}
