//! Encryption: a certificate that is given, or one of an authority of this machine's own.
//!
//! The own authority is made at the first start: `ca.pem`, which clients are told to trust, and `ca-key.pem`, readable
//! by its owner alone. A server's certificate is made anew at each start and never kept. TLS 1.2 and 1.3, by rustls,
//! which knows nothing older.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca-key.pem";
/// Clocks of clients may be slow.
const SLACK: Duration = Duration::from_secs(24 * 3600);
/// For a server's certificate: what clients accept at most.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(397 * 24 * 3600);
/// For the authority's own.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why there is no encryption.
#[derive(Debug)]
pub enum TlsError {
    /// A file could not be read or written.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file has no certificate or key in it.
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// Certificates could not be made.
    Make(rcgen::Error),
    /// Certificate and key cannot be used together.
    Use(rustls::Error),
}

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TlsError::Io { path, .. } => write!(f, "{} cannot be read or written", path.display()),
            TlsError::Pem { path, .. } => {
                write!(f, "{} has no certificate or key in PEM format", path.display())
            }
            TlsError::Make(_) => f.write_str("a certificate could not be made"),
            TlsError::Use(_) => {
                f.write_str("the certificate and the key cannot be used: do they belong together?")
            }
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TlsError::Io { source, .. } => Some(source),
            TlsError::Pem { source, .. } => Some(source),
            TlsError::Make(source) => Some(source),
            TlsError::Use(source) => Some(source),
        }
    }
}

/// TLS with a certificate (and what leads from it to an authority) and its key, both files in PEM format.
///
/// # Errors
/// If they cannot be read or used.
pub fn given(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let pem = |path: &Path| {
        let path = path.to_path_buf();
        move |source| TlsError::Pem { path, source }
    };
    let chain: Vec<CertificateDer> = CertificateDer::pem_file_iter(certificate)
        .and_then(|certificates| certificates.collect())
        .map_err(pem(certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
    config(chain, key)
}

/// TLS with a certificate of this machine's own authority, for these names and addresses; and where the authority's
/// certificate is.
///
/// # Errors
/// If the authority's files cannot be read or written.
pub fn own(dir: &Path, names: &[String]) -> Result<(Arc<ServerConfig>, PathBuf), TlsError> {
    let path = dir.join(CA_FILE);
    let key_path = dir.join(CA_KEY_FILE);
    if !path.exists() || !key_path.exists() {
        let key = KeyPair::generate().map_err(TlsError::Make)?;
        let certificate = authority().and_then(|params| params.self_signed(&key)).map_err(TlsError::Make)?;
        fs::create_dir_all(dir).map_err(io_error(dir))?;
        // The key first: a certificate without its key is made anew.
        write(&key_path, &key.serialize_pem())?;
        write(&path, &certificate.pem())?;
    }
    let key = fs::read_to_string(&key_path).map_err(io_error(&key_path))?;
    let issuer =
        Issuer::new(authority().map_err(TlsError::Make)?, KeyPair::from_pem(&key).map_err(TlsError::Make)?);
    let mut params = CertificateParams::new(names).map_err(TlsError::Make)?;
    params.distinguished_name.push(DnType::CommonName, "Edgeward");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    limit(&mut params, CERTIFICATE_LIFE);
    let key = KeyPair::generate().map_err(TlsError::Make)?;
    let certificate = params.signed_by(&key, &issuer).map_err(TlsError::Make)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok((config(vec![certificate.der().clone()], key)?, path))
}

fn authority() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "Edgeward's own authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit(&mut params, CA_LIFE);
    Ok(params)
}

fn limit(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(SLACK);
    params.not_after = epoch + now + life;
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(TlsError::Use)?;
    Ok(Arc::new(config))
}

/// Whole or not at all, and readable by its owner alone.
fn write(path: &Path, text: &str) -> Result<(), TlsError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    tempfile::NamedTempFile::new_in(dir)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)
        })
        .map(|_| ())
        .map_err(io_error(path))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> TlsError {
    let path = path.to_path_buf();
    |source| TlsError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_made_once_and_its_key_is_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("tls");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let (_, path) = own(&dir, &names).unwrap();
        let certificate = fs::read(&path).unwrap();
        own(&dir, &names).unwrap();
        assert_eq!(fs::read(&path).unwrap(), certificate);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(dir.join(CA_KEY_FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        // The authority's own pair can be used as a given one; halves of different pairs cannot.
        assert!(given(&path, &dir.join(CA_KEY_FILE)).is_ok());
        let other = KeyPair::generate().unwrap();
        fs::write(dir.join("other.pem"), other.serialize_pem()).unwrap();
        assert!(matches!(given(&path, &dir.join("other.pem")), Err(TlsError::Use(_))));
        assert!(matches!(given(&dir.join("absent"), &path), Err(TlsError::Pem { .. })));
        fs::write(dir.join(CA_KEY_FILE), "damaged").unwrap();
        assert!(matches!(own(&dir, &names), Err(TlsError::Make(_))));
    }
}
