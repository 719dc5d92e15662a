//! Asks a registry for an image, over the OCI distribution protocol. Layers are verified by [`crate::store`], manifests
//! here.

use crate::digest::Digest;
use crate::error::{CallError, Result, bad, error};
use crate::http::{Failed, Http, Patience};
use crate::manifest::{DOCUMENT_CAP, Descriptor, Document, choose, parse};
use crate::origin::Origin;
use crate::store::BlobWriter;
use oci_spec::distribution::Reference;
use pepita_wire::record::CallErrorKind;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

/// The manifests that are understood.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// The fewest bytes of a layer that have to arrive in a second.
const SLOWEST: u64 = 1 << 10;

/// The bytes of a layer that an attempt has to bring, so that as many further attempts are made as after the first one.
const PROGRESS: u64 = 1 << 16;

/// A registry that is asked for one image.
pub struct Registry {
    http: Http,
    reference: Reference,
    runtime: Runtime,
    silence: Duration,
    pauses: [Duration; 2],
}

impl Registry {
    /// Prepares to ask for an image.
    ///
    /// # Errors
    /// When docker's configuration cannot be read.
    pub fn new(reference: &Reference, plain_http: bool, patience: &Patience) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build();
        Ok(Self {
            http: Http::new(reference, plain_http, patience)?,
            reference: reference.clone(),
            runtime: runtime.map_err(|e| error(CallErrorKind::Internal, e.to_string()))?,
            silence: patience.silence,
            pauses: patience.pauses,
        })
    }

    /// Makes several attempts as long as failures may pass.
    fn attempts<T>(&self, mut ask: impl AsyncFnMut() -> Result<T, Failed>) -> Result<T> {
        self.runtime.block_on(async {
            for pause in self.pauses {
                match ask().await {
                    Err(Failed::Passing(_)) => tokio::time::sleep(pause).await,
                    Err(Failed::Lasting(e)) => return Err(e),
                    Ok(answer) => return Ok(answer),
                }
            }
            ask().await.map_err(Failed::error)
        })
    }

    /// Returns a manifest or an index by its tag or its digest, which is then verified.
    fn named(&self, name: &str, digest: Option<&Digest>) -> Result<Vec<u8>> {
        let (path, cap) = (format!("manifests/{name}"), DOCUMENT_CAP as usize);
        let bytes = self.attempts(async || self.http.document(&path, MANIFESTS, cap).await)?;
        match digest.is_none_or(|digest| Digest::of(&bytes) == *digest) {
            true => Ok(bytes),
            false => Err(bad(format!("{}: the manifest has another digest than {name}", self.reference))),
        }
    }

    fn by_digest(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.named(&digest.to_string(), Some(digest))
    }

    async fn download(
        &self,
        blob: &Descriptor,
        into: &mut BlobWriter,
        told: &dyn Fn(u64),
    ) -> Result<(), Failed> {
        if into.length() == blob.size {
            return Ok(());
        }
        let mut response = self.http.blob(&format!("blobs/{}", blob.digest), into.length()).await?;
        if response.status() != reqwest::StatusCode::PARTIAL_CONTENT {
            into.restart().map_err(Failed::Lasting)?;
        }
        let (mut since, mut from) = (Instant::now(), into.length());
        while let Some(bytes) = response.chunk().await.map_err(|e| self.http.broken(e))? {
            into.write(&bytes).map_err(Failed::Lasting)?;
            told(into.length());
            // A layer that comes drop by drop would never stall, and never end.
            let (passed, arrived) = (since.elapsed(), into.length() - from);
            if passed >= self.silence {
                if arrived < SLOWEST * passed.as_secs() {
                    return Err(self.http.unreachable("it sends less than 1 KiB in a second"));
                }
                (since, from) = (Instant::now(), into.length());
            }
        }
        match into.length() == blob.size {
            true => Ok(()),
            false => Err(self.http.unreachable("it broke off in the middle of a layer")),
        }
    }
}

impl Origin for Registry {
    fn manifest(&mut self) -> Result<Vec<u8>> {
        let of_image = |e: CallError| bad(format!("{}: {}", self.reference, e.message));
        let bytes = match self.reference.digest() {
            Some(digest) => self.by_digest(&Digest::parse(digest)?)?,
            None => self.named(self.reference.tag().unwrap_or("latest"), None)?,
        };
        match parse(&bytes).map_err(of_image)? {
            Document::Manifest(_) => Ok(bytes),
            Document::Index(index) => self.by_digest(&choose(&index).map_err(of_image)?.digest),
        }
    }

    fn blob(&mut self, blob: &Descriptor, into: &mut BlobWriter, told: &dyn Fn(u64)) -> Result<()> {
        self.runtime.block_on(async {
            let (mut pauses, mut furthest) = (self.pauses.iter(), 0);
            loop {
                match self.download(blob, into, told).await {
                    Ok(()) => return Ok(()),
                    Err(Failed::Lasting(e)) => return Err(e),
                    Err(Failed::Passing(e)) => {
                        // A large layer over a bad line is continued as often as it gets on.
                        if into.length() >= furthest + PROGRESS {
                            (pauses, furthest) = (self.pauses.iter(), into.length());
                        }
                        let pause = pauses.next().ok_or(e)?;
                        tokio::time::sleep(*pause).await;
                    }
                }
            }
        })
    }
}
