//! Tests of imports: images that umoci and skopeo have made, and layers that no honest tool makes.

mod support;

use serde_json::json;
use std::io::Write;
use support::registry::run;
use support::{Image, Yard, layer, prepared, tool};
use tar::EntryType::{Char, Directory, Link, Regular, Symlink};

#[test]
fn an_image_of_umoci_is_imported_and_its_twin_of_skopeo_has_the_same_files() {
    let yard = Yard::new();
    let layout = format!("oci:{}:7", prepared(".guest/images/redis").display());
    let record = yard.json(&["import", &layout, "--as", "redis:7"]);
    assert_eq!(record["reference"], "docker.io/library/redis:7");
    let config = &record["config"];
    assert_eq!(config["entrypoint"], json!(["redis-server"]));
    assert_eq!((&config["user"], &config["working_dir"]), (&json!("redis"), &json!("/data")));
    assert_eq!((&config["stop_signal"], &config["exposed_ports"]), (&json!("SIGINT"), &json!(["6379/tcp"])));

    let archive = yard.path("redis.tar");
    let target = format!("docker-archive:{}:redis:7", archive.display());
    run(tool("skopeo").args(["--insecure-policy", "copy", "-q", &layout, &target]));
    let twin = yard.json(&["import", archive.to_str().expect("a plain path"), "--as", "twin"]);
    assert_eq!(twin["config"]["entrypoint"], json!(["redis-server"]));
    for record in [&record, &twin] {
        let root = yard.root(record);
        root.assert_whole();
        assert!(root.cat("etc/passwd").contains("redis:x:999"), "a file of the lower layer");
        assert!(!root.stat("etc").is_empty() && root.stat("usr/bin/redis-cli").contains("Type: regular"));
        let names = root.0.metadata().expect("there").len();
        assert!(names > 0);
    }
    let listed = yard.json(&["list"]);
    let names: Vec<_> =
        listed.as_array().expect("a list").iter().map(|one| one["reference"].clone()).collect();
    assert_eq!(names, [json!("docker.io/library/redis:7"), json!("docker.io/library/twin:latest")]);

    // What one image needs stays when the other goes, and with the last name all goes.
    yard.json(&["remove", "twin"]);
    yard.root(&record).assert_whole();
    assert_eq!(yard.json(&["inspect", "redis:7"])["digest"], record["digest"]);
    yard.json(&["remove", record["id"].as_str().expect("a digest")]);
    assert_eq!(yard.stored(), Vec::<String>::new());
}

#[test]
fn whiteouts_remove_what_lower_layers_have() {
    let yard = Yard::new();
    let lower = layer(&[(Directory, "etc/", b""), (Regular, "etc/gone", b"1"), (Regular, "etc/kept", b"2")]);
    let upper = layer(&[(Regular, "etc/.wh.gone", b""), (Regular, "etc/new", b"3")]);
    let record = yard.json(&["import", &yard.layout("a", &[lower, upper])]);
    let root = yard.root(&record);
    root.assert_whole();
    assert_eq!((root.cat("etc/kept").as_str(), root.cat("etc/new").as_str()), ("2", "3"));
    // debugfs names what is missing on standard error, and prints nothing.
    assert_eq!(root.cat("etc/gone"), "");
}

#[test]
fn hostile_layers_are_refused_and_leave_nothing() {
    let yard = Yard::new();
    let victim = yard.path("victim");
    std::fs::write(&victim, "untouched").expect("written");
    let up = format!("{}{}", "../".repeat(12), victim.strip_prefix("/").expect("absolute").display());
    let cases: [(&str, Vec<u8>, &str); 10] = [
        ("above", layer(&[(Regular, &up, b"x")]), "\"..\""),
        ("hard link above", layer(&[(Link, "a", up.as_bytes())]), "\"..\""),
        ("absolute hard link", layer(&[(Link, "a", b"/etc/shadow")]), "absolute"),
        ("through a link", layer(&[(Symlink, "a", b"/tmp"), (Regular, "a/x", b"x")]), "symbolic link"),
        (
            "whiteout through a link",
            layer(&[(Symlink, "a", b".."), (Regular, "a/.wh.x", b"")]),
            "symbolic link",
        ),
        ("twice", layer(&[(Regular, "a", b"1"), (Regular, "a", b"2")]), "twice"),
        ("link and file", layer(&[(Symlink, "a", b"b"), (Regular, "a", b"2")]), "twice"),
        ("below a file", layer(&[(Regular, "a", b"1"), (Regular, "a/b", b"2")]), "below a file"),
        ("of no known kind", layer(&[(tar::EntryType::new(b'Z'), "a", b"")]), "unknown kind"),
        ("cut short", layer(&[(Regular, "a", &[1; 4096])])[..1024].to_vec(), "cannot be read"),
    ];
    for (name, layer, word) in cases {
        let said = yard.fails(&["import", &yard.layout(name, &[layer])], 66);
        assert!(said.contains(word), "{name}: {said}");
        assert_eq!(yard.stored(), Vec::<String>::new(), "{name}");
    }
    assert_eq!(std::fs::read_to_string(&victim).expect("there"), "untouched");
}

#[test]
fn a_layer_that_unpacks_to_more_than_is_allowed_is_refused() {
    let yard = Yard::new();
    // 64 MiB of zeros, in 64 KiB.
    let mut zeros = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").expect("short");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(64 << 20);
    header.set_cksum();
    zeros.write_all(header.as_bytes()).expect("written");
    let block = vec![0; 1 << 20];
    (0..64).for_each(|_| zeros.write_all(&block).expect("written"));
    let layout = yard.layout("zeros", &[zeros.finish().expect("written")]);
    let said = yard.fails(&["import", &layout, "--max-size", "2"], 66);
    assert!(said.contains("--max-size"), "{said}");
    assert_eq!(yard.stored(), Vec::<String>::new());
    // The names and attributes of one entry are held in memory.
    let headers = layer(&[(tar::EntryType::XHeader, "x", &[b'x'; 2 << 20]), (Regular, "a", b"")]);
    let said = yard.fails(&["import", &yard.layout("headers", &[headers])], 66);
    assert!(said.contains("headers of more than 1 MiB"), "{said}");
    assert_eq!(yard.stored(), Vec::<String>::new());
    // What is allowed is taken.
    let layout = yard.layout("large", &[layer(&[(Regular, "a", &[7; 1 << 20])])]);
    yard.json(&["import", &layout, "--max-size", "2"]);
}

#[test]
fn a_layout_that_lies_about_its_contents_is_refused() {
    let yard = Yard::new();
    let layers = [layer(&[(Regular, "a", b"1"), (Char, "null", b"")])];
    let image = Image::of(&layers);
    for (number, (digest, bytes)) in image.blobs.iter().enumerate() {
        let name = format!("lie{number}");
        let layout = yard.layout(&name, &layers);
        let mut other = bytes.clone();
        *other.last_mut().expect("some bytes") ^= 1;
        let blob = yard.path(&name).join("blobs").join(digest.replace(':', "/"));
        std::fs::write(&blob, other).expect("written");
        yard.fails(&["import", &layout], 66);
        assert_eq!(yard.stored(), Vec::<String>::new(), "{number}");
        // A pipe is not waited for, and a link is not followed.
        std::fs::remove_file(&blob).expect("removed");
        run(std::process::Command::new("mkfifo").arg(&blob));
        yard.fails(&["import", &layout], 66);
        std::fs::remove_file(&blob).expect("removed");
        std::os::unix::fs::symlink("/etc/hostname", &blob).expect("linked");
        yard.fails(&["import", &layout], 66);
        assert_eq!(yard.stored(), Vec::<String>::new(), "{number}");
    }
}
