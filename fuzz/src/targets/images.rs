//! What registries, image builders and files of images say.

use super::choice;
use pepita_images::manifest::Document;
use pepita_images::reference::Source;
use pepita_images::{challenge, config, manifest};
use std::path::Path;

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
