//! The command line of `pepita-image`, which `pepita image` shows as its own.

use crate::confine::confine;
use crate::error::{CallError, Result, error, io};
use crate::layer::IMAGE_CAP;
use crate::progress::Progress;
use crate::reference::Source;
use crate::source::{Allowed, fetch, name};
use crate::store::{Named, Removed, Store, is_used, no_image};
use clap::{Args, Parser, Subcommand, ValueEnum};
use pepita_wire::data;
use pepita_wire::image::ImageRecord;
use pepita_wire::record::{CallErrorKind, pretty};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Pulls, imports and keeps container images
#[derive(Debug, Parser)]
#[command(name = "pepita image", bin_name = "pepita image", version, arg_required_else_help = true)]
struct Cli {
    /// Print records and errors as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    call: Call,
}

#[derive(Debug, Subcommand)]
enum Call {
    /// Pull an image from a registry, or what has changed of it
    Pull {
        /// The image, such as redis:7 or ghcr.io/team/api@sha256:…
        reference: String,
        /// Ask for the image only when it is not here
        #[arg(long)]
        missing: bool,
        #[command(flatten)]
        options: Options,
    },
    /// Take an image from a directory or a file
    Import {
        /// oci:DIR[:TAG] (an OCI image layout), docker-archive:FILE[:TAG] (of `docker save`), or a path of either
        source: String,
        /// Give the image this name [default: the place that it comes from]
        #[arg(long = "as", value_name = "REFERENCE")]
        name: Option<String>,
        #[command(flatten)]
        options: Options,
    },
    /// List the images
    #[command(visible_alias = "ls")]
    List,
    /// Print what is known of an image as JSON
    Inspect {
        /// The image's name or digest
        reference: String,
    },
    /// Remove the names of images, and what no other name needs
    #[command(visible_alias = "rm")]
    Remove {
        /// The images' names
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Remove images that have no name; an image that a VM runs stays
    Prune {
        /// Remove every image that no VM runs
        #[arg(long, short)]
        all: bool,
    },
    /// Print the record of an image whose root is ready, for a launch
    #[command(hide = true)]
    Resolve {
        /// The image.
        reference: String,
        /// When to ask the place that the image comes from.
        #[arg(long, value_enum, default_value_t = Pull::Missing)]
        pull: Pull,
        #[command(flatten)]
        options: Options,
    },
}

/// When an image is asked for where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pull {
    /// Each time
    Always,
    /// When it is not here
    Missing,
    /// Not at all
    Never,
}

#[derive(Debug, Args)]
struct Options {
    /// Speak plain HTTP with the registry. (With a registry on loopback this is usual.)
    #[arg(long)]
    plain_http: bool,
    /// The MiB that the files of an image may have, unpacked
    #[arg(long, value_name = "MIB", default_value_t = IMAGE_CAP >> 20, value_parser = clap::value_parser!(u64).range(1..=16 << 20))]
    max_size: u64,
    /// Tell nothing about the progress
    #[arg(long, short)]
    quiet: bool,
}

impl Options {
    fn allowed(&self) -> Allowed {
        Allowed { plain_http: self.plain_http, max_size: self.max_size << 20 }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    // The launcher reads the answer, and a person the progress.
    let is_for_launcher = matches!(cli.call, Call::Resolve { .. });
    match perform(cli) {
        Ok(text) => {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            ExitCode::SUCCESS
        }
        Err(e) => {
            if is_for_launcher {
                let _ = writeln!(
                    std::io::stdout(),
                    "{}",
                    serde_json::to_string(&e).expect("an error becomes JSON")
                );
                return ExitCode::from(e.kind.exit_code());
            }
            let text = match json {
                true => serde_json::to_string(&e).expect("an error becomes JSON"),
                false => format!("pepita: {}", e.message),
            };
            let _ = writeln!(std::io::stderr(), "{text}");
            ExitCode::from(e.kind.exit_code())
        }
    }
}

fn perform(Cli { json, call }: Cli) -> Result<String> {
    let dir = directory()?;
    let here = std::env::current_dir().map_err(|e| io(Path::new("."), e))?;
    let store = Store::open(&dir)?;
    let parse = |text: &str| Source::parse(text, &here);
    match call {
        Call::Pull { reference, missing, options } => {
            let pull = if missing { Pull::Missing } else { Pull::Always };
            let record = resolve(&store, &parse(&reference)?, pull, &options)?;
            Ok(one(&record, json))
        }
        Call::Import { source, name, options } => {
            let source = parse(&place(&source))?;
            let name = match name {
                None => source.to_string(),
                Some(name) => match parse(&name)? {
                    Source::Registry(reference) => reference.whole(),
                    Source::OciLayout(_) | Source::DockerArchive(_) | Source::Stored(_) => {
                        return Err(error(
                            CallErrorKind::Usage,
                            format!("--as {name:?}: a reference such as app:1 is wanted"),
                        ));
                    }
                },
            };
            let record = bring(&store, &source, &name, &options)?;
            Ok(one(&record, json))
        }
        Call::List => Ok(list(&store, json)),
        Call::Inspect { reference } => {
            let named = find(&store, &parse(&reference)?)?;
            Ok(pretty(&store.inspect(&named)?) + "\n")
        }
        Call::Remove { references } => {
            let mut all = Removed::default();
            drop(store);
            for reference in references {
                let store = Store::open(&dir)?;
                let named = find(&store, &parse(&reference)?)?;
                let removed = store.remove(&named.reference)?;
                (all.images, all.bytes) = (all.images + removed.images, all.bytes + removed.bytes);
            }
            Ok(removed(all, json))
        }
        Call::Prune { all } => Ok(removed(store.prune(all)?, json)),
        Call::Resolve { reference, pull, options } => {
            let record = resolve(&store, &parse(&reference)?, pull, &options)?;
            Ok(one(&record, json))
        }
    }
}

/// Returns an image whose root is ready.
fn resolve(store: &Store, source: &Source, pull: Pull, options: &Options) -> Result<ImageRecord> {
    let name = source.to_string();
    let progress = Progress::of(Source::short(&name), options.quiet);
    let ready = |named: &Named| ready(store, named, options, &progress);
    match pull {
        Pull::Always => bring(store, source, &name, options),
        Pull::Missing | Pull::Never => match (is_here(store, source)?, pull) {
            (Some(named), _) => ready(&named),
            (None, Pull::Always | Pull::Never) => Err(no_image(&name)),
            (None, Pull::Missing) => {
                // Several VMs of one image start at once, and one of them downloads it.
                let turn = store.turn(&name, &progress)?;
                let brought = match is_here(store, source)? {
                    Some(named) => ready(&named),
                    None => bring(store, source, &name, options),
                };
                drop(turn);
                brought
            }
        },
    }
}

/// Brings an image into the store and makes its root. What is refused leaves nothing.
fn bring(store: &Store, source: &Source, called: &str, options: &Options) -> Result<ImageRecord> {
    let progress = Progress::of(Source::short(called), options.quiet);
    let brought = || {
        let named = fetch(store, source, called, &options.allowed(), &progress)?;
        let record = ready(store, &named, options, &progress)?;
        name(store, &named)?;
        Ok(record)
    };
    brought().inspect_err(|e: &CallError| {
        if e.kind == CallErrorKind::BadImage {
            store.forget();
        }
    })
}

/// Makes the root of an image that is in the store. What reads its layers reaches the store alone.
fn ready(store: &Store, named: &Named, options: &Options, progress: &Progress) -> Result<ImageRecord> {
    confine(store.dir());
    store.ready(named, options.max_size << 20, progress)
}

/// Returns the image of a source, if it is here with all its parts.
fn is_here(store: &Store, source: &Source) -> Result<Option<Named>> {
    let named = match source {
        Source::Stored(digest) => store.by_digest(digest)?,
        // What is on the disk may have changed, and looking costs nothing.
        Source::OciLayout(place) | Source::DockerArchive(place) if place.path.exists() => None,
        Source::Registry(_) | Source::OciLayout(_) | Source::DockerArchive(_) => {
            store.named(&source.to_string())
        }
    };
    match named {
        Some(named) => {
            let manifest = store.manifest(&named.digest)?;
            Ok(manifest.filter(|manifest| store.is_complete(manifest)).map(|_| named))
        }
        None => Ok(None),
    }
}

fn find(store: &Store, source: &Source) -> Result<Named> {
    let found = match source {
        Source::Stored(digest) => store.by_digest(digest)?,
        other => store.named(&other.to_string()),
    };
    found.ok_or_else(|| no_image(&source.to_string()))
}

/// Adds the scheme to the plain path of a layout or an archive.
fn place(source: &str) -> String {
    let is_named = source.starts_with("oci:") || source.starts_with("docker-archive:");
    match Path::new(source) {
        _ if is_named => source.to_owned(),
        path if path.is_dir() => format!("oci:{source}"),
        path if path.is_file() => format!("docker-archive:{source}"),
        _ => source.to_owned(),
    }
}

fn directory() -> Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let dir = data::directory(uid, |name| std::env::var_os(name)).ok_or_else(|| {
        let why = format!("there is no data directory: set ${} or $HOME", data::ENVIRONMENT);
        error(CallErrorKind::Usage, why)
    })?;
    let dir = std::path::absolute(&dir).map_err(|e| io(&dir, e))?;
    Ok(dir.join(data::IMAGES))
}

fn one(record: &ImageRecord, json: bool) -> String {
    match json {
        true => pretty(record) + "\n",
        false => format!("{}  {}\n", Source::short(&record.reference), record.digest),
    }
}

fn list(store: &Store, json: bool) -> String {
    let names = store.names();
    let all: Vec<(&Named, Result<ImageRecord>)> =
        names.iter().map(|named| (named, store.inspect(named))).collect();
    if json {
        let records: Vec<_> = all
            .iter()
            .map(|(named, inspected)| match inspected {
                Ok(record) => {
                    json!({ "reference": record.reference, "digest": record.digest, "id": record.id,
                    "size": record.size, "root": record.root, "used": is_used(&record.root) })
                }
                Err(e) => json!({ "reference": named.reference, "digest": named.digest, "error": e.message }),
            })
            .collect();
        return pretty(&records) + "\n";
    }
    let width =
        names.iter().map(|named| Source::short(&named.reference).chars().count()).max().unwrap_or(0).max(5);
    let mut text = format!("{:width$}  {:12}  {:>9}  USED\n", "IMAGE", "ID", "SIZE");
    for (named, inspected) in all {
        let short = Source::short(&named.reference);
        text += &match inspected {
            Ok(record) => {
                let id = record.id.trim_start_matches("sha256:").get(..12).unwrap_or_default().to_owned();
                let size = format!("{:.1} MiB", record.size as f64 / f64::from(1 << 20));
                let used = if is_used(&record.root) { "yes" } else { "no" };
                format!("{short:width$}  {id:12}  {size:>9}  {used}\n")
            }
            Err(e) => format!("{short:width$}  unreadable: {}\n", e.message),
        };
    }
    text
}

fn removed(all: Removed, json: bool) -> String {
    match json {
        true => pretty(&json!({ "images": all.images, "bytes": all.bytes })) + "\n",
        false => {
            let plural = if all.images == 1 { "" } else { "s" };
            format!(
                "{} image{plural} removed, {:.1} MiB freed\n",
                all.images,
                all.bytes as f64 / f64::from(1 << 20)
            )
        }
    }
}
