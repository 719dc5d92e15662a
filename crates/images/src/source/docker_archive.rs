//! Reads a file of `docker save`: a tar archive with `manifest.json`, configurations and layers. Nothing of it is
//! unpacked: blobs are read where they lie.

use crate::digest::{Digest, Hashing};
use crate::error::{Result, bad, io, shown};
use crate::layer::{Compression, HEADERS_CAP, compression};
use crate::manifest::{DOCUMENT_CAP, Descriptor, LAYERS_CAP};
use crate::origin::Origin;
use crate::reference::{self, OnDisk};
use crate::store::{BlobWriter, Scratch};
use serde::Deserialize;
use serde_json::json;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The most members that an archive may have, and the longest name of one, in bytes.
const MEMBERS_CAP: usize = 10_000;
const NAME_CAP: usize = 4096;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    at: u64,
    length: u64,
}

pub(crate) struct DockerArchive {
    path: PathBuf,
    file: File,
    manifest: Vec<u8>,
    parts: BTreeMap<Digest, Part>,
}

pub(crate) fn open(place: &OnDisk, scratch: &Scratch, cap: u64) -> Result<DockerArchive> {
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
    if chosen.layers.len() > LAYERS_CAP {
        return Err(bad(format!("{}: the image has more than {LAYERS_CAP} layers", path.display())));
    }
    let mut parts: BTreeMap<Digest, Part> = BTreeMap::new();
    let mut describe = |name: &str, kind: &str| {
        let part = member(name)?;
        // An image may have a layer several times.
        let known = parts.iter().find(|(_, known)| **known == part).map(|(digest, _)| digest.clone());
        let digest = match known {
            Some(digest) => digest,
            None => Hashing::new(reader(&file, part)).finish().map_err(|e| io(&path, e))?.0,
        };
        let described = json!({ "mediaType": kind, "digest": digest, "size": part.length });
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

/// A reader of the headers of an archive, which passes over the contents. The length of a header is a claim, and tar reads long
/// names as a whole: here they come to an end.
struct Headers<'a> {
    file: &'a File,
    /// The bytes that the headers of the present entry may still have.
    left: &'a Cell<u64>,
}

impl Read for Headers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.left.get()).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 && !buffer.is_empty() {
            let what = "an entry has headers of more than 1 MiB";
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
        }
        let n = self.file.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - n as u64);
        Ok(n)
    }
}

impl Seek for Headers<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(to)
    }
}

fn members(file: &File, path: &Path) -> Result<BTreeMap<String, Member>> {
    let damaged = |e: std::io::Error| bad(format!("{}: {}", path.display(), shown(&e.to_string())));
    let left = Cell::new(HEADERS_CAP);
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(Headers { file, left: &left });
    for (count, entry) in archive.entries_with_seek().map_err(damaged)?.enumerate() {
        let entry = entry.map_err(damaged)?;
        if count >= MEMBERS_CAP {
            return Err(bad(format!("{}: more than {MEMBERS_CAP} members", path.display())));
        }
        left.set(HEADERS_CAP);
        let (name, target) = (entry.path_bytes(), entry.link_name_bytes().unwrap_or_default());
        if name.len().max(target.len()) > NAME_CAP {
            return Err(bad(format!(
                "{}: a member has a name of more than {NAME_CAP} bytes",
                path.display()
            )));
        }
        let member = match entry.header().entry_type() {
            tar::EntryType::Regular => {
                Member::Part(Part { at: entry.raw_file_position(), length: entry.size() })
            }
            tar::EntryType::Symlink => Member::Link(String::from_utf8_lossy(&target).into_owned()),
            _ => continue,
        };
        members.insert(String::from_utf8_lossy(&name).into_owned(), member);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Returns an archive of headers with these kinds, names and lengths, each with as many bytes as it says. They are holes in
    /// the file.
    fn archive(headers: &[(tar::EntryType, &str, u64)]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        for (kind, name, size) in headers {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_path(name).expect("short");
            header.set_size(*size);
            header.set_cksum();
            file.write_all(header.as_bytes()).expect("written");
            let end = file.stream_position().expect("there") + size.next_multiple_of(512);
            file.set_len(end).expect("longer");
            file.seek(SeekFrom::Start(end)).expect("there");
        }
        file.write_all(&[0; 1024]).expect("written");
        file.seek(SeekFrom::Start(0)).expect("there");
        file
    }

    fn refused(headers: &[(tar::EntryType, &str, u64)]) -> String {
        members(&archive(headers), Path::new("x.tar")).expect_err("refused").message
    }

    #[test]
    fn a_header_that_claims_gigabytes_is_not_read_into_memory() {
        use tar::EntryType as Kind;
        for kind in [Kind::GNULongName, Kind::GNULongLink, Kind::XHeader] {
            let said = refused(&[(kind, "x", 8 << 30), (Kind::Regular, "a", 0)]);
            assert!(said.contains("headers of more than 1 MiB"), "{kind:?}: {said}");
        }
        // Contents may be large: they are passed over.
        let found = members(&archive(&[(Kind::Regular, "a", 8 << 30)]), Path::new("x.tar")).expect("read");
        assert!(matches!(found["a"], Member::Part(Part { at: 512, length }) if length == 8 << 30));
    }

    #[test]
    fn the_names_of_members_have_a_bound_and_so_has_their_number() {
        use tar::EntryType as Kind;
        let said = refused(&[(Kind::GNULongName, "x", 5000), (Kind::Regular, "a", 0)]);
        assert!(said.contains("a name of more than"), "{said}");
        let said = refused(&vec![(Kind::Directory, "d", 0); MEMBERS_CAP + 1]);
        assert!(said.contains("more than 10000 members"), "{said}");
    }
}
