//! What registries, image builders and files of images say.

use super::choice;
use super::scratch::Scratch;
use super::tar::with_sums;
use pepita_images::fuzzing::{Place, Registry};
use pepita_images::layer::{self, Spool};
use pepita_images::manifest::Document;
use pepita_images::reference::Source;
use pepita_images::tree::{Kind, Meta, Tree};
use pepita_images::{challenge, config, manifest};
use std::collections::BTreeSet;
use std::path::Path;

pub(super) use pepita_images::fuzzing::token;

/// Reads a manifest or an index, and chooses the image for guests in it.
pub(super) fn manifest(bytes: &[u8]) {
    match manifest::parse(bytes) {
        Ok(Document::Manifest(read)) => {
            assert!(read.layers.len() <= 512 && read.config.size <= manifest::DOCUMENT_CAP);
            let digests = read.layers.iter().chain([&read.config]).map(|blob| blob.digest.to_string());
            assert!(digests.into_iter().all(|digest| digest.len() == 71 && digest.starts_with("sha256:")));
        }
        Ok(Document::Index(index)) => {
            if let Ok(chosen) = manifest::choose(&index) {
                assert!(chosen.platform.as_ref().is_none_or(manifest::Platform::is_ours));
            }
        }
        Err(e) => is_short(&e.message),
    }
}

/// Asserts that an error quotes no more of a stranger than fits a screen.
pub(super) fn is_short(message: &str) {
    assert!(message.chars().count() < 2048 && !message.contains(['\0', '\x1b', '\r']), "{message:?}");
}

/// Reads the configuration of an image.
pub(super) fn config(bytes: &[u8]) {
    match config::parse(bytes) {
        Ok((config, _)) => {
            assert!(config.env.keys().all(|name| !name.is_empty() && !name.contains('=')));
            let text = serde_json::to_string(&config).expect("a record becomes JSON");
            assert_eq!(serde_json::from_str::<pepita_wire::image::ImageConfig>(&text).expect("ours"), config);
        }
        Err(e) => is_short(&e.message),
    }
}

/// Reads what a registry asks for before it answers.
pub(super) fn challenge(bytes: &[u8]) {
    let Ok(header) = std::str::from_utf8(bytes) else { return };
    if let Some(challenge::Challenge::Bearer { realm, service }) = challenge::read(header) {
        assert!(realm.len() + service.map_or(0, |service| service.len()) <= header.len());
    }
}

/// Reads the name of an image. What is shown of it is read again as the same image.
pub(super) fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(choice(bytes).1) else { return };
    match Source::parse(text, Path::new("/nowhere")) {
        Ok(source) => {
            let shown = source.to_string();
            let again = Source::parse(&shown, Path::new("/nowhere"));
            assert_eq!(again.as_ref().map(ToString::to_string).ok(), Some(shown), "{text:?}");
        }
        Err(e) => is_short(&e.message),
    }
}

/// Asserts that a message of a call is one that people can read.
fn is_said(result: pepita_images::error::Result<()>) {
    if let Err(e) = result {
        is_short(&e.message);
    }
}

/// Asserts what holds of the tree of any image: every name lies below the root, and a directory comes before its contents.
fn is_whole(tree: &Tree, spool: u64) {
    let mut directories = BTreeSet::new();
    for (path, number) in tree.walk() {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        assert!(path == "/" || parent.is_empty() || directories.contains(parent), "{path:?}");
        assert!(path.starts_with('/') && path.split('/').all(|name| name != "..") && !path.contains('\0'));
        match tree.node(number).kind {
            Kind::Directory => drop(directories.insert(path)),
            Kind::File { at, length } => assert!(at + length <= spool),
            Kind::Symlink(_) | Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Pipe => {}
        }
    }
}

/// Reads one or two layers. The first byte is the part of the input, in 256ths, that is the first layer.
pub(super) fn layer(input: &[u8]) {
    const CAP: u64 = 1 << 20;
    let (part, bytes) = choice(input);
    let (first, second) = bytes.split_at(bytes.len() * (part + 1) / 256);
    Scratch::with("layer", |dir| {
        let (file, contents) = (dir.join("layer"), dir.join("spool"));
        let mut spool = Spool::create(&contents, CAP).expect("a file");
        let mut tree = Tree::default();
        for bytes in [first, second] {
            std::fs::write(&file, with_sums(bytes)).expect("room for a layer");
            let applied = layer::apply(&mut tree, &mut spool, &file, "sha256:x").map(drop);
            let is_good = applied.is_ok();
            is_said(applied);
            assert!(spool.length() <= CAP);
            if !is_good {
                break;
            }
        }
        is_whole(&tree, spool.length());
        std::fs::remove_file(&contents).expect("removed");
    });
}

/// Puts a tree together. Each line is a kind of entry, a path and a target, parted by blanks; `n` begins a layer.
pub(super) fn tree(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut tree = Tree::default();
    tree.next_layer();
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        let mut next = || words.next().unwrap_or_default();
        let (kind, path, target) = (next(), next(), next());
        let added = match kind {
            "d" => tree.add(path, Kind::Directory, Meta::default()),
            "f" => tree.add(path, Kind::File { at: 0, length: 0 }, Meta::default()),
            "l" => tree.add(path, Kind::Symlink(target.to_owned()), Meta::default()),
            "h" => tree.link(path, target),
            "n" => {
                tree.next_layer();
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(refusal) = added {
            assert!(!refusal.to_string().contains('\0'));
        }
    }
    is_whole(&tree, 0);
}

thread_local! {
    static PLACE: std::cell::OnceCell<Place> = const { std::cell::OnceCell::new() };
    static REGISTRY: std::cell::OnceCell<Registry> = const { std::cell::OnceCell::new() };
}

fn in_place(name: &str, run: impl FnOnce(&Path, &Place)) {
    Scratch::with(name, |dir| {
        PLACE.with(|place| run(dir, place.get_or_init(|| Place::new(&dir.join("store")).expect("a store"))));
    });
}

/// Reads a file of `docker save`.
pub(super) fn docker_archive(bytes: &[u8]) {
    in_place("archive", |dir, place| {
        let file = dir.join("archive.tar");
        std::fs::write(&file, with_sums(bytes)).expect("room for an archive");
        is_said(place.docker_archive(&file));
    });
}

/// Reads a directory with an OCI image layout. Its documents are parted by zeros.
pub(super) fn oci_layout(bytes: &[u8]) {
    let documents: Vec<&[u8]> = bytes.split(|byte| *byte == 0).take(16).collect();
    in_place("layout", |_, place| is_said(place.layout(&documents)));
}

/// Reads the body of a refusal. The first two bytes are its status.
pub(super) fn refusal(bytes: &[u8]) {
    let Some((status, body)) = bytes.split_first_chunk::<2>() else { return };
    let status = 300 + u16::from_le_bytes(*status) % 300;
    REGISTRY.with(|registry| {
        let registry = registry.get_or_init(|| Registry::new().expect("a client"));
        is_short(&registry.refusal(status, body).message);
    });
}

/// Reads the file of `docker login`.
pub(super) fn credentials(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        pepita_images::fuzzing::credentials(text);
    }
}
