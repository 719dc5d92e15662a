//! Asks a registry for an image, over the OCI distribution protocol. Everything that it sends is verified by
//! [`crate::store`]; here is what to do when it does not answer as it should.

use crate::credentials;
use crate::error::{CallError, Result, bad, error, shown};
use crate::manifest::{DOCUMENT_CAP, Descriptor, Document, choose, parse};
use crate::origin::Origin;
use crate::reference::is_loopback;
use crate::store::BlobWriter;
use oci_client::client::{BlobResponse, Client, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use pepita_wire::record::CallErrorKind;
use std::future::{Future, poll_fn};
use std::time::Duration;
use tokio::runtime::Runtime;

/// The manifests that are understood.
const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// How long a registry is waited for.
#[derive(Debug, Clone)]
pub struct Patience {
    /// The time limit for a connection.
    pub connect: Duration,
    /// The time in which something has to arrive.
    pub silence: Duration,
    /// The time limit for a manifest.
    pub manifest: Duration,
    /// The pauses before further attempts, when a registry is busy or a connection breaks off.
    pub pauses: [Duration; 2],
}

/// Returns the usual patience. `$PEPITA_REGISTRY_PATIENCE`, in seconds, is another limit of silence.
pub fn patience() -> Patience {
    let named = std::env::var("PEPITA_REGISTRY_PATIENCE").ok().and_then(|text| text.parse().ok());
    let silence = Duration::from_secs(named.unwrap_or(30).clamp(1, 3600));
    Patience {
        connect: silence.min(Duration::from_secs(15)),
        silence,
        manifest: silence * 2,
        pauses: [Duration::from_millis(500), Duration::from_secs(2)],
    }
}

/// A registry that is asked for one image.
pub struct Registry {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
    runtime: Runtime,
    patience: Patience,
}

impl Registry {
    /// Prepares to ask for an image.
    ///
    /// # Errors
    /// When docker's configuration cannot be read.
    pub fn new(reference: &Reference, plain_http: bool, patience: &Patience) -> Result<Self> {
        // An installed provider is no error: it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let host = reference.resolve_registry();
        let protocol = match plain_http || is_loopback(host) {
            true => ClientProtocol::Http,
            false => ClientProtocol::Https,
        };
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let config = ClientConfig {
            protocol,
            connect_timeout: Some(patience.connect),
            read_timeout: Some(patience.silence),
            user_agent: concat!("pepita-image/", env!("CARGO_PKG_VERSION")),
            https_proxy: variable("HTTPS_PROXY").or_else(|| variable("https_proxy")),
            http_proxy: variable("HTTP_PROXY")
                .or_else(|| variable("http_proxy"))
                .filter(|_| !is_loopback(host)),
            no_proxy: variable("NO_PROXY").or_else(|| variable("no_proxy")),
            ..ClientConfig::default()
        };
        let internal = |e: String| error(CallErrorKind::Internal, e);
        let client = Client::try_from(config).map_err(|e| internal(e.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let auth = match credentials::of(host)? {
            Some(found) => RegistryAuth::Basic(found.user, found.secret),
            None => RegistryAuth::Anonymous,
        };
        Ok(Self {
            client,
            reference: reference.clone(),
            auth,
            runtime: runtime.map_err(|e| internal(e.to_string()))?,
            patience: patience.clone(),
        })
    }

    fn raw(&self, reference: &Reference) -> Result<Vec<u8>> {
        let ask = || async {
            let asked = self.client.pull_manifest_raw(reference, &self.auth, &MANIFESTS);
            match tokio::time::timeout(self.patience.manifest, asked).await {
                Ok(answer) => answer.map_err(|e| self.failed(&e)),
                Err(_) => Err(Failed::Passing(self.unreachable("it does not answer"))),
            }
        };
        let (bytes, _) = self.runtime.block_on(self.attempts(ask))?;
        match bytes.len() as u64 > DOCUMENT_CAP {
            true => Err(bad(format!("{}: its manifest is larger than 4 MiB", self.reference))),
            false => Ok(bytes.to_vec()),
        }
    }

    /// Makes several attempts as long as failures may pass.
    async fn attempts<T, F: Future<Output = Result<T, Failed>>>(&self, ask: impl Fn() -> F) -> Result<T> {
        for pause in self.patience.pauses {
            match ask().await {
                Err(Failed::Passing(_)) => tokio::time::sleep(pause).await,
                Err(Failed::Lasting(e)) => return Err(e),
                Ok(answer) => return Ok(answer),
            }
        }
        ask().await.map_err(Failed::error)
    }

    async fn download(
        &self,
        blob: &Descriptor,
        into: &mut BlobWriter,
        told: &dyn Fn(u64),
    ) -> Result<(), Failed> {
        let descriptor = OciDescriptor {
            digest: blob.digest.to_string(),
            size: i64::try_from(blob.size).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        };
        let from = into.length();
        let asked = self.client.pull_blob_stream_partial(&self.reference, &descriptor, from, None);
        let mut stream = match asked.await.map_err(|e| self.failed(&e))? {
            BlobResponse::Partial(stream) => stream.stream,
            BlobResponse::Full(stream) => {
                into.restart().map_err(Failed::Lasting)?;
                stream.stream
            }
        };
        while let Some(bytes) = poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
            // The client verifies, too, and says so with an error of the stream. The writer finds out itself.
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(_) if into.length() == blob.size => return Ok(()),
                Err(e) => return Err(Failed::Passing(self.unreachable(&shown(&chain(&e))))),
            };
            into.write(&bytes).map_err(Failed::Lasting)?;
            told(into.length());
        }
        match into.length() == blob.size {
            true => Ok(()),
            false => Err(Failed::Passing(self.unreachable("it broke off in the middle of a layer"))),
        }
    }

    fn unreachable(&self, why: &str) -> CallError {
        error(
            CallErrorKind::TryAgain,
            format!("{}: {}: {why}", self.reference, self.reference.resolve_registry()),
        )
    }

    /// Says what an answer of the registry means.
    fn failed(&self, e: &OciDistributionError) -> Failed {
        let lasting = |kind, why: &str| Failed::Lasting(error(kind, format!("{}: {why}", self.reference)));
        let login = "the registry refuses access; does the image exist, and has `docker login` been done?";
        match e {
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_) => lasting(CallErrorKind::Permission, login),
            OciDistributionError::RegistryError { envelope, .. } => {
                let codes: Vec<&OciErrorCode> = envelope.errors.iter().map(|e| &e.code).collect();
                let has = |code: OciErrorCode| codes.contains(&&code);
                if has(OciErrorCode::Unauthorized) || has(OciErrorCode::Denied) {
                    lasting(CallErrorKind::Permission, login)
                } else if has(OciErrorCode::Toomanyrequests) {
                    Failed::Passing(self.unreachable("it takes no more requests for now (429)"))
                } else {
                    lasting(CallErrorKind::BadImage, &shown(&envelope.to_string()))
                }
            }
            OciDistributionError::ImageManifestNotFoundError(_)
            | OciDistributionError::ServerError { code: 404, .. } => {
                lasting(CallErrorKind::BadImage, "the registry has no such image")
            }
            OciDistributionError::ServerError { code: 401 | 403, .. } => {
                lasting(CallErrorKind::Permission, login)
            }
            OciDistributionError::ServerError { code: code @ (408 | 429 | 500..), .. } => {
                Failed::Passing(self.unreachable(&format!("it cannot answer for now ({code})")))
            }
            OciDistributionError::RequestError(e) => Failed::Passing(self.unreachable(&shown(&chain(e)))),
            OciDistributionError::IoError(e) => Failed::Passing(self.unreachable(&shown(&chain(e)))),
            other => lasting(CallErrorKind::BadImage, &shown(&other.to_string())),
        }
    }
}

/// Joins an error with its causes, which say what has really happened.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

/// The reason why an attempt has failed.
enum Failed {
    /// Another attempt may succeed.
    Passing(CallError),
    /// No other attempt would succeed.
    Lasting(CallError),
}

impl Failed {
    fn error(self) -> CallError {
        match self {
            Self::Passing(e) | Self::Lasting(e) => e,
        }
    }
}

impl Origin for Registry {
    fn manifest(&mut self) -> Result<Vec<u8>> {
        let authorised = || async {
            let asked = self.client.auth(&self.reference, &self.auth, RegistryOperation::Pull);
            match tokio::time::timeout(self.patience.manifest, asked).await {
                Ok(answer) => answer.map(drop).map_err(|e| self.failed(&e)),
                Err(_) => Err(Failed::Passing(self.unreachable("it does not answer"))),
            }
        };
        self.runtime.block_on(self.attempts(authorised))?;
        let bytes = self.raw(&self.reference)?;
        match parse(&bytes)? {
            Document::Manifest(_) => Ok(bytes),
            Document::Index(index) => {
                let chosen = choose(&index).map_err(|e| bad(format!("{}: {}", self.reference, e.message)))?;
                let bytes = self.raw(&self.reference.clone_with_digest(chosen.digest.to_string()))?;
                match crate::digest::Digest::of(&bytes) == chosen.digest {
                    true => Ok(bytes),
                    false => Err(bad(format!(
                        "{}: the manifest has another digest than the index says",
                        self.reference
                    ))),
                }
            }
        }
    }

    fn blob(&mut self, blob: &Descriptor, into: &mut BlobWriter, told: &dyn Fn(u64)) -> Result<()> {
        let runtime = &self.runtime;
        runtime.block_on(async {
            for pause in self.patience.pauses {
                match self.download(blob, into, told).await {
                    Err(Failed::Passing(_)) => tokio::time::sleep(pause).await,
                    Err(Failed::Lasting(e)) => return Err(e),
                    Ok(()) => return Ok(()),
                }
            }
            self.download(blob, into, told).await.map_err(Failed::error)
        })
    }
}
