//! rustls configurations from PEM files.
//!
//! Files are read when a configuration is made, so that renewed ones are picked up by making it again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, InconsistentKeys, RootCertStore, ServerConfig,
    SignatureScheme,
};

use kferry_config::{CertificateFile, Certificates, ClientTls, ServerTls, TlsIdentity, read_file};

use crate::files::NotRead;

/// A TLS configuration that cannot be made. Names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// The file is not there or not readable.
    #[error("cannot read {path}: {source}; create the file or make it readable for this user")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file did not come in time.
    #[error("a certificate or key {0}")]
    NotRead(#[from] NotRead),
    /// A broken PEM block.
    #[error("{path} is broken PEM: {reason}; copy the file anew")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No certificate in a file that should have one.
    #[error(
        "no certificate in {path}: it needs a block -----BEGIN CERTIFICATE-----; \
         a Java keystore is turned into PEM with `keytool -importkeystore -deststoretype PKCS12` and then `openssl pkcs12`"
    )]
    NoCertificate {
        /// Which file.
        path: PathBuf,
    },
    /// No private key in a file that should have one.
    #[error("no private key in {path}: it needs a block -----BEGIN PRIVATE KEY-----")]
    NoKey {
        /// Which file.
        path: PathBuf,
    },
    /// The key is protected by a passphrase.
    #[error("the private key in {path} is encrypted, which kferry cannot read; decrypt it with `openssl pkey -in {path} -out FILE`")]
    EncryptedKey {
        /// Which file.
        path: PathBuf,
    },
    /// Both are fine, but not each other's.
    #[error("the private key in {key} does not belong to the first certificate in {certificate}; the server's own certificate comes first")]
    KeyMismatch {
        /// `ssl_certificate_location`
        certificate: PathBuf,
        /// `ssl_key_location`
        key: PathBuf,
    },
    /// A certificate or key of a kind that rustls does not take.
    #[error("{path} cannot be used for TLS: {reason}")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// `ssl_ca_location` is not set, and the system trusts nobody.
    #[error("this system has no trusted certificate authorities{reason}; install them (Debian: ca-certificates) or set ssl_ca_location")]
    NoSystemRoots {
        /// What went wrong when they were looked for.
        reason: String,
    },
    /// A host that is neither a DNS name nor an IP address.
    #[error("'{host}' is no host name that a certificate could be for")]
    ServerName {
        /// The host.
        host: String,
    },
}

/// TLS towards a broker.
///
/// # Errors
/// [`SecurityError`]: the first file that cannot be used.
pub fn client_config(tls: &ClientTls) -> Result<Arc<ClientConfig>, SecurityError> {
    let provider = provider();
    let roots = Arc::new(match &tls.ca {
        Some(path) => authorities(path)?,
        None => system_roots()?,
    });
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| SecurityError::Unusable { path: tls.ca.clone().unwrap_or_default(), reason: error.to_string() })?;
    let verifier: Arc<dyn ServerCertVerifier> = if tls.skip_host_name_check { Arc::new(AnyHostName(verifier)) } else { verifier };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match &tls.identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = read_identity(identity)?;
            config.with_client_auth_cert(chain, key).map_err(|error| bad_identity(identity, &error))?
        }
    };
    Ok(Arc::new(config))
}

/// TLS from a client.
///
/// # Errors
/// [`SecurityError`]: the first file that cannot be used.
pub fn server_config(tls: &ServerTls) -> Result<Arc<ServerConfig>, SecurityError> {
    let provider = provider();
    let config =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().expect("ring knows TLS 1.2 and 1.3");
    let config = match &tls.client_auth {
        None => config.with_no_client_auth(),
        Some(auth) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(&auth.ca)?), provider);
            let verifier = if auth.required { verifier } else { verifier.allow_unauthenticated() };
            let unusable =
                |error: rustls::server::VerifierBuilderError| SecurityError::Unusable { path: auth.ca.clone(), reason: error.to_string() };
            config.with_client_cert_verifier(verifier.build().map_err(unusable)?)
        }
    };
    let (chain, key) = read_identity(&tls.identity)?;
    Ok(Arc::new(config.with_single_cert(chain, key).map_err(|error| bad_identity(&tls.identity, &error))?))
}

/// The name that a broker's certificate must be for.
///
/// # Errors
/// [`SecurityError::ServerName`]
pub fn server_name(host: &str) -> Result<ServerName<'static>, SecurityError> {
    // A certificate names `host`; `host.` is how DNS is told not to search.
    let name = host.strip_suffix('.').unwrap_or(host).to_owned();
    ServerName::try_from(name).map_err(|_| SecurityError::ServerName { host: host.to_owned() })
}

/// The subject of our own certificate as a broker names the principal: `CN=kferry,O=Example`, most specific first (RFC 2253, as
/// `X500Principal.getName` writes it). The broker's `ssl.principal.mapping.rules` may shorten it.
///
/// # Errors
/// [`SecurityError`] if the file holds no certificate.
pub fn subject(identity: &TlsIdentity) -> Result<String, SecurityError> {
    let path = &identity.certificate;
    let chain = certificates(path)?;
    subject_of(&chain[0]).map_err(|reason| SecurityError::Unusable { path: path.clone(), reason })
}

/// The subject of a certificate, written as [`subject`] does.
///
/// # Errors
/// Why it is no certificate.
pub fn subject_of(certificate: &CertificateDer<'_>) -> Result<String, String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
    Ok(rfc2253(certificate.subject()))
}

/// Until when the certificates in a file are good, in seconds since 1970. Our own: until the first of the chain is over. Authorities: until the last one
/// is, since a new one is put beside the old one before that is over. `None`: nothing in it can be read; who uses the file says why.
pub fn not_after(file: &CertificateFile) -> Option<i64> {
    let dates = certificates(&file.path).ok()?.into_iter().filter_map(|certificate| {
        let (_, certificate) = x509_parser::parse_x509_certificate(&certificate).ok()?;
        Some(certificate.validity().not_after.timestamp())
    });
    match file.holds {
        Certificates::Own => dates.min(),
        Certificates::Authorities => dates.max(),
    }
}

/// What a TLS error means for whoever runs kferry. `host` is whom we wanted to reach.
pub fn explain(error: &Error, host: &str, tls: &ClientTls) -> String {
    let authorities = || match &tls.ca {
        Some(path) => format!("in {}", path.display()),
        None => "that this system trusts".to_owned(),
    };
    match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "its certificate is not signed by an authority {}; set ssl_ca_location to the PEM file of the cluster's authority",
                authorities()
            ),
            CertificateError::NotValidForNameContext { presented, .. } => format!(
                "its certificate is for {}, not for {host}; use one of its names in bootstrap_servers, \
                 or set ssl_endpoint_identification_algorithm = \"none\"",
                names(presented)
            ),
            CertificateError::NotValidForName => format!(
                "its certificate is not for {host}; use one of its names in bootstrap_servers, \
                 or set ssl_endpoint_identification_algorithm = \"none\""
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate, or its authority's, has expired; renew it at the broker (or set this machine's clock)".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet; check the clock of this machine and of whoever issued it".to_owned()
            }
            error => format!("its certificate is refused: {error}"),
        },
        // With TLS 1.3 these come after the handshake, in place of the first answer.
        Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::DecryptError
            | AlertDescription::HandshakeFailure
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied,
        ) => match &tls.identity {
            None => "it refused us, and no certificate is set for this cluster: a broker with ssl.client.auth=required wants one; \
                     set ssl_certificate_location and ssl_key_location"
                .to_owned(),
            Some(identity) => format!(
                "it refused the certificate in {} ({error}); it must be valid and signed by an authority in the broker's truststore",
                identity.certificate.display()
            ),
        },
        Error::InvalidMessage(_) => {
            "its answer is not TLS: this port is plaintext; set security_protocol to PLAINTEXT or SASL_PLAINTEXT, or use the TLS port"
                .to_owned()
        }
        error => error.to_string(),
    }
}

fn names(presented: &[String]) -> String {
    match presented {
        [] => "no name at all (only subjectAltName counts, not CN)".to_owned(),
        presented => presented.join(", "),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, SecurityError> {
    read_file(path).map_err(|source| SecurityError::Unreadable { path: path.to_owned(), source })
}

fn broken(path: &Path, error: &pem::Error) -> SecurityError {
    SecurityError::Pem { path: path.to_owned(), reason: error.to_string() }
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(|error| broken(path, &error))?;
    if certificates.is_empty() { Err(SecurityError::NoCertificate { path: path.to_owned() }) } else { Ok(certificates) }
}

fn authorities(path: &Path) -> Result<RootCertStore, SecurityError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| SecurityError::Unusable { path: path.to_owned(), reason: error.to_string() })?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, SecurityError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some systems ship authorities that are too old to be read: the others still count.
    let (added, _unreadable) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reason = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(SecurityError::NoSystemRoots { reason });
    }
    Ok(roots)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, SecurityError> {
    let text = read(path)?;
    // PKCS#8 says so in the label, PKCS#1 in a header of the block.
    let encrypted = [&b"BEGIN ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|mark| text.windows(mark.len()).any(|window| window == *mark));
    if encrypted {
        return Err(SecurityError::EncryptedKey { path: path.to_owned() });
    }
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(SecurityError::NoKey { path: path.to_owned() }),
        Err(error) => Err(broken(path, &error)),
    }
}

fn read_identity(identity: &TlsIdentity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), SecurityError> {
    Ok((certificates(&identity.certificate)?, private_key(&identity.key)?))
}

fn bad_identity(identity: &TlsIdentity, error: &Error) -> SecurityError {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            SecurityError::KeyMismatch { certificate: identity.certificate.clone(), key: identity.key.clone() }
        }
        Error::InvalidCertificate(error) => SecurityError::Unusable { path: identity.certificate.clone(), reason: error.to_string() },
        error => SecurityError::Unusable { path: identity.key.clone(), reason: error.to_string() },
    }
}

/// `ssl_endpoint_identification_algorithm = "none"`: the chain and its dates are checked as ever, only the name is forgiven.
#[derive(Debug)]
struct AnyHostName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyHostName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The name is what webpki looks at last: everything else was right when it complains of it. A test holds that.
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })) => {
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn rfc2253(name: &x509_parser::x509::X509Name<'_>) -> String {
    // The names that RFC 2253 has; Java writes others as their number and the value as the hex of its DER.
    const SHORT: [(&str, &str); 9] = [
        ("2.5.4.3", "CN"),
        ("2.5.4.6", "C"),
        ("2.5.4.7", "L"),
        ("2.5.4.8", "ST"),
        ("2.5.4.9", "STREET"),
        ("2.5.4.10", "O"),
        ("2.5.4.11", "OU"),
        ("0.9.2342.19200300.100.1.1", "UID"),
        ("0.9.2342.19200300.100.1.25", "DC"),
    ];
    let attribute = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        let number = attribute.attr_type().to_id_string();
        match (SHORT.iter().find(|(oid, _)| *oid == number), attribute.as_str()) {
            (Some((_, short)), Ok(value)) => format!("{short}={}", escaped(value)),
            (Some((_, short)), Err(_)) => format!("{short}=#{}", der_hex(attribute.attr_value())),
            (None, _) => format!("{number}=#{}", der_hex(attribute.attr_value())),
        }
    };
    let mut parts: Vec<String> = name.iter_rdn().map(|rdn| rdn.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    parts.reverse();
    parts.join(",")
}

/// Tag, length and content. Names are short: a length of two bytes is enough for any that a broker takes.
fn der_hex(value: &x509_parser::der_parser::asn1_rs::Any<'_>) -> String {
    let mut bytes = vec![value.header.tag().0 as u8];
    match value.data.len() {
        len @ 0..=0x7f => bytes.push(len as u8),
        len @ 0x80..=0xff => bytes.extend([0x81, len as u8]),
        len => bytes.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    bytes.extend_from_slice(value.data);
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn escaped(value: &str) -> String {
    let mut text = String::new();
    for (at, c) in value.char_indices() {
        let edge = (at == 0 && (c == ' ' || c == '#')) || (at + 1 == value.len() && c == ' ');
        if edge || ",+\"\\<>;".contains(c) {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use kferry_config::ClientAuth;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use tempfile::TempDir;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    /// An authority, and a folder for what it signs.
    pub(crate) struct Authority {
        folder: TempDir,
        issuer: CertifiedIssuer<'static, KeyPair>,
        pub(crate) ca: PathBuf,
    }

    impl Authority {
        pub(crate) fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self::with(params)
        }

        fn with(mut params: CertificateParams) -> Self {
            let folder = tempfile::tempdir().unwrap();
            params.distinguished_name.push(DnType::CommonName, "kferry test authority");
            let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let ca = folder.path().join("ca.pem");
            std::fs::write(&ca, issuer.pem()).unwrap();
            Self { folder, issuer, ca }
        }

        pub(crate) fn sign(&self, name: &str, params: &CertificateParams) -> TlsIdentity {
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            TlsIdentity {
                certificate: self.write(&format!("{name}.pem"), &certificate.pem()),
                key: self.write(&format!("{name}.key"), &key.serialize_pem()),
            }
        }

        pub(crate) fn host(&self, host: &str) -> TlsIdentity {
            self.sign(host, &CertificateParams::new(vec![host.to_owned()]).unwrap())
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        pub(crate) fn client(&self) -> ClientTls {
            ClientTls { ca: Some(self.ca.clone()), ..ClientTls::default() }
        }
    }

    /// Shakes hands, and returns each side's error. A first byte goes each way: with TLS 1.3 a refused client learns it only then.
    async fn shake(client: &ClientTls, server: &ServerTls, host: &str) -> (Result<(), Error>, Result<(), Error>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (connector, acceptor) = (TlsConnector::from(client_config(client).unwrap()), TlsAcceptor::from(server_config(server).unwrap()));
        let name = server_name(host).unwrap();
        let near = async {
            let mut stream = connector.connect(name, near).await?;
            stream.write_all(b"?").await?;
            stream.flush().await?;
            stream.read_u8().await.map(drop)
        };
        let far = async {
            let mut stream = acceptor.accept(far).await?;
            stream.read_u8().await?;
            stream.write_all(b"!").await?;
            stream.flush().await
        };
        let (near, far) = tokio::join!(near, far);
        let error = |result: std::io::Result<()>| {
            result.map_err(|error| {
                error
                    .get_ref()
                    .and_then(|error| error.downcast_ref::<Error>())
                    .cloned()
                    .unwrap_or_else(|| Error::General(error.to_string()))
            })
        };
        (error(near), error(far))
    }

    fn server(identity: TlsIdentity) -> ServerTls {
        ServerTls { identity, client_auth: None }
    }

    #[tokio::test]
    async fn a_broker_signed_by_the_authority_is_trusted_under_its_name_or_address_only() {
        let authority = Authority::new();
        let tls = authority.client();
        for host in ["broker-1.example", "127.0.0.1"] {
            assert_eq!(shake(&tls, &server(authority.host(host)), host).await, (Ok(()), Ok(())));
        }
        let (error, _) = shake(&tls, &server(authority.host("broker-1.example")), "localhost").await;
        let text = explain(&error.unwrap_err(), "localhost", &tls);
        assert!(text.contains("broker-1.example") && text.contains("not for localhost") && text.contains("ssl_endpoint"), "{text}");
    }

    #[tokio::test]
    async fn without_host_name_check_the_chain_and_the_dates_are_checked_all_the_same() {
        let authority = Authority::new();
        let tls = ClientTls { skip_host_name_check: true, ..authority.client() };
        assert_eq!(shake(&tls, &server(authority.host("other.example")), "localhost").await, (Ok(()), Ok(())));

        let (error, _) = shake(&tls, &server(Authority::new().host("localhost")), "localhost").await;
        let text = explain(&error.unwrap_err(), "localhost", &tls);
        assert!(text.contains("not signed by an authority in") && text.contains("ca.pem"), "{text}");

        let mut expired = CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
        expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
        expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let (error, _) = shake(&tls, &server(authority.sign("expired", &expired)), "localhost").await;
        let text = explain(&error.unwrap_err(), "localhost", &tls);
        assert!(text.contains("expired"), "{text}");
    }

    #[tokio::test]
    async fn a_client_certificate_is_required_or_only_requested() {
        let authority = Authority::new();
        let listener = |required| ServerTls {
            identity: authority.host("localhost"),
            client_auth: Some(ClientAuth { ca: authority.ca.clone(), required }),
        };
        let nobody = authority.client();
        let known = ClientTls { identity: Some(authority.host("client")), ..authority.client() };
        assert_eq!(shake(&known, &listener(true), "localhost").await, (Ok(()), Ok(())));
        assert_eq!(shake(&known, &listener(false), "localhost").await, (Ok(()), Ok(())));
        assert_eq!(shake(&nobody, &listener(false), "localhost").await, (Ok(()), Ok(())));
        let (error, _) = shake(&nobody, &listener(true), "localhost").await;
        let text = explain(&error.unwrap_err(), "localhost", &nobody);
        assert!(text.contains("set ssl_certificate_location"), "{text}");

        let other = Authority::new();
        let stranger = ClientTls { identity: Some(other.host("client")), ..authority.client() };
        for required in [true, false] {
            let (error, _) = shake(&stranger, &listener(required), "localhost").await;
            let text = explain(&error.unwrap_err(), "localhost", &stranger);
            assert!(text.contains("refused the certificate in") && text.contains("client.pem"), "{text}");
        }
    }

    #[test]
    fn each_bad_file_is_named_with_what_to_do() {
        let authority = Authority::new();
        let good = authority.host("localhost");
        let other = authority.host("other");
        let pem = std::fs::read_to_string(&good.key).unwrap();
        let label = |text: &str| pem.replace("PRIVATE KEY", text);
        let cases = [
            (authority.write("empty.pem", ""), good.key.clone(), "no certificate in", "empty.pem"),
            (good.key.clone(), good.key.clone(), "no certificate in", "localhost.key"),
            (good.certificate.clone(), good.certificate.clone(), "no private key in", "localhost.pem"),
            (good.certificate.clone(), authority.write("secret.key", &label("ENCRYPTED PRIVATE KEY")), "openssl pkey -in", "secret.key"),
            (
                good.certificate.clone(),
                authority.write("old.key", &label("RSA PRIVATE KEY").replacen('\n', "\nProc-Type: 4,ENCRYPTED\n", 1)),
                "openssl pkey -in",
                "old.key",
            ),
            (good.certificate.clone(), other.key.clone(), "does not belong to", "other.key"),
            (authority.folder.path().join("absent.pem"), good.key.clone(), "cannot read", "absent.pem"),
            (
                authority.write("cut.pem", &std::fs::read_to_string(&good.certificate).unwrap()[..200]),
                good.key.clone(),
                "broken PEM",
                "cut.pem",
            ),
        ];
        for (certificate, key, says, names) in cases {
            let identity = TlsIdentity { certificate, key };
            let client = ClientTls { identity: Some(identity.clone()), ..authority.client() };
            for error in [client_config(&client).err().unwrap(), server_config(&server(identity)).err().unwrap()] {
                let text = error.to_string();
                assert!(text.contains(says) && text.contains(names), "{text}");
            }
        }
        let error = client_config(&ClientTls { ca: Some(good.key), ..ClientTls::default() }).err().unwrap();
        assert!(matches!(error, SecurityError::NoCertificate { .. }), "{error}");
    }

    #[test]
    fn a_subject_is_written_as_java_writes_principals() {
        let authority = Authority::new();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "DE");
        params.distinguished_name.push(DnType::OrganizationName, "Ferry, Inc.");
        params.distinguished_name.push(DnType::CommonName, "kferry");
        params.distinguished_name.push(DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]), "a@b");
        let identity = authority.sign("subject", &params);
        assert_eq!(subject(&identity).unwrap(), r"1.2.840.113549.1.9.1=#0c03614062,CN=kferry,O=Ferry\, Inc.,C=DE");
    }

    fn until(year: i32) -> CertificateParams {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params
    }

    #[test]
    fn a_chain_is_good_until_its_first_date_and_authorities_until_their_last() {
        let authority = Authority::new();
        let one = |year: i32| std::fs::read_to_string(authority.sign(&year.to_string(), &until(year)).certificate).unwrap();
        let path = authority.write("both.pem", &(one(2031) + &one(2030)));
        let not_after = |holds| not_after(&CertificateFile { table: "clusters.a".to_owned(), holds, path: path.clone() });
        assert_eq!((not_after(Certificates::Own), not_after(Certificates::Authorities)), (Some(1_893_456_000), Some(1_924_992_000)));
        std::fs::write(&path, "").unwrap();
        assert_eq!(not_after(Certificates::Own), None);
    }

    /// So the date of an authority alone refuses nobody: what counts are the certificates that it has signed.
    #[tokio::test]
    async fn an_authority_that_is_over_still_counts() {
        let mut params = until(2021);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = Authority::with(params);
        assert_eq!(shake(&authority.client(), &server(authority.host("localhost")), "localhost").await, (Ok(()), Ok(())));
    }

    #[test]
    fn a_server_name_is_a_host_name_or_an_address() {
        for good in ["broker-1", "broker-1.example.", "10.1.2.3", "::1"] {
            assert!(server_name(good).is_ok(), "{good}");
        }
        assert!(server_name("broker 1").unwrap_err().to_string().contains("'broker 1'"));
    }
}
