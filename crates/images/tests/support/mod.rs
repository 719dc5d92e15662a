//! A data directory for a test, images that are made for it, and calls of the real `pepita-image`.
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod registry;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A data directory, and a directory for what is imported.
pub(crate) struct Yard {
    pub(crate) dir: tempfile::TempDir,
    data: PathBuf,
}

impl Yard {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        Self { dir, data }
    }

    /// Makes a yard whose data lies elsewhere.
    pub(crate) fn with_data(data: &Path) -> Self {
        Self { data: data.to_owned(), ..Self::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pepita-image"));
        command.args(args).env("PEPITA_DATA_DIR", &self.data).env("PEPITA_REGISTRY_PATIENCE", "2");
        command.env("DOCKER_CONFIG", self.path("docker")).current_dir(self.dir.path());
        for proxy in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env_remove(proxy);
        }
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn call(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("pepita-image runs")
    }

    /// Makes a call that has to succeed. Returns the JSON that it printed.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let output = self.call(&[&["--json"], args].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Makes a call that has to fail with this exit code. Returns its error.
    pub(crate) fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.call(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stderr)
    }

    /// Returns the files of the store, without its locks.
    pub(crate) fn stored(&self) -> Vec<String> {
        let (mut files, mut left) = (Vec::new(), vec![self.data.join("images")]);
        while let Some(dir) = left.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = path.strip_prefix(&self.data).expect("below it").to_string_lossy().into_owned();
                match path.is_dir() {
                    true if name.contains(".scratch") => files.push(name),
                    true => left.push(path),
                    false if name.contains("lock") => {}
                    false => files.push(name),
                }
            }
        }
        files.sort();
        files
    }

    pub(crate) fn root(&self, record: &Value) -> Root {
        Root(PathBuf::from(record["root"].as_str().expect("a root")))
    }

    /// Writes an OCI layout with one image of these layers. Returns its name for an import.
    pub(crate) fn layout(&self, name: &str, layers: &[Vec<u8>]) -> String {
        let dir = self.path(name);
        let image = Image::of(layers);
        std::fs::create_dir_all(dir.join("blobs/sha256")).expect("made");
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
        for (digest, bytes) in &image.blobs {
            std::fs::write(dir.join("blobs").join(digest.replace(':', "/")), bytes).expect("written");
        }
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor(&image.manifest)] });
        std::fs::write(dir.join("index.json"), index.to_string()).expect("written");
        format!("oci:{}", dir.display())
    }
}

/// The root of an image, looked into by debugfs(8).
pub(crate) struct Root(pub(crate) PathBuf);

impl Root {
    fn run(&self, program: &str, args: &[&str]) -> String {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").expect("a PATH"));
        let output = Command::new(program).env("PATH", path).args(args).arg(&self.0).output();
        let output = output.expect("e2fsprogs is installed (make setup)");
        assert!(output.status.success(), "{program}: {}", text(&output.stdout));
        text(&output.stdout)
    }

    pub(crate) fn assert_whole(&self) {
        self.run("e2fsck", &["-f", "-n"]);
    }

    pub(crate) fn cat(&self, path: &str) -> String {
        self.run("debugfs", &["-R", &format!("cat {path}")])
    }

    pub(crate) fn stat(&self, path: &str) -> String {
        self.run("debugfs", &["-R", &format!("stat {path}")])
    }
}

/// An image in memory: its manifest, and every blob with its digest.
pub(crate) struct Image {
    pub(crate) manifest: Vec<u8>,
    pub(crate) blobs: Vec<(String, Vec<u8>)>,
}

impl Image {
    pub(crate) fn of(layers: &[Vec<u8>]) -> Self {
        let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({ "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/x"] },
            "rootfs": { "type": "layers", "diff_ids": ids } });
        let config = config.to_string().into_bytes();
        let descriptors: Vec<Value> = layers.iter().map(|layer| descriptor(layer)).collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor(&config), "layers": descriptors });
        let manifest = manifest.to_string().into_bytes();
        let all = layers.iter().chain([&config, &manifest]);
        let blobs = all.map(|bytes| (digest(bytes), bytes.clone())).collect();
        Self { manifest, blobs }
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn descriptor(bytes: &[u8]) -> Value {
    json!({ "digest": digest(bytes), "size": bytes.len(), "mediaType": "application/vnd.oci.image.layer.v1.tar" })
}

/// An entry of a layer: its kind, its path as it is written into the header, its contents or the target of a link.
pub(crate) type Entry<'a> = (tar::EntryType, &'a str, &'a [u8]);

/// Returns a layer with these entries, whatever their paths are.
pub(crate) fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, path, contents) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        // The builder would refuse a hostile path.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        let is_link = matches!(kind, tar::EntryType::Link | tar::EntryType::Symlink);
        if is_link {
            header.as_old_mut().linkname[..contents.len()].copy_from_slice(contents);
        }
        let contents = if is_link { b"" } else { *contents };
        header.set_size(contents.len() as u64);
        header.set_cksum();
        archive.append(&header, contents).expect("written");
    }
    archive.into_inner().expect("written")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns a path in the repository, which `make setup-tests` has made.
pub(crate) fn prepared(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    path.canonicalize().unwrap_or_else(|e| panic!("{}: {e}; run `make setup-tests`", path.display()))
}

/// Returns a call of a tool that `make setup-tests` has unpacked.
pub(crate) fn tool(name: &str) -> Command {
    let tools = prepared(".tools/oci");
    let mut command = Command::new(tools.join("usr/bin").join(name));
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|dir| tools.join(dir));
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries).expect("plain paths"));
    command
}
