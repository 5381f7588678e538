//! TLS to a controller that is known by its certificate: by SHA-256 of it, whatever it says of itself.
//!
//! Controllers sign their own certificates, so no authority vouches for them. The first one that is seen is noted, for the caller to
//! keep; from then on another one ends the handshake before any password is sent. That the controller has the key is always checked.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    StreamOwned,
};
use sha2::{Digest, Sha256};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};

use crate::power::controller::Fingerprint;

/// The certificate that a controller must show, or the first that it has shown.
#[derive(Debug, Default)]
struct Pins {
    expected: Option<Fingerprint>,
    shown: Option<Fingerprint>,
}

/// The pin of one controller, shared with its connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Pin(Arc<Mutex<Pins>>);

impl Pin {
    pub(super) fn new(expected: Option<Fingerprint>) -> Self {
        Self(Arc::new(Mutex::new(Pins { expected, shown: None })))
    }

    /// What must be shown, or was shown first.
    pub(super) fn expected(&self) -> Option<Fingerprint> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).expected
    }

    /// What was shown instead of what was expected.
    pub(super) fn stranger(&self) -> Option<Fingerprint> {
        let pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pins.shown.filter(|shown| pins.expected.is_some_and(|expected| expected != *shown))
    }

    fn show(&self, shown: Fingerprint) -> bool {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pins.shown = Some(shown);
        pins.expected.is_none_or(|expected| expected == shown)
    }

    /// The handshake was finished, so that the controller has the key of what it showed.
    fn keep(&self) {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pins.expected = pins.expected.or(pins.shown);
    }
}

#[derive(Debug)]
struct Verifier {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pin.show(Fingerprint(Sha256::digest(end_entity).into())) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Puts TLS with the pin over what is connected.
#[derive(Debug)]
pub(super) struct PinnedTls {
    pin: Pin,
}

impl PinnedTls {
    pub(super) fn new(pin: Pin) -> Self {
        Self { pin }
    }

    fn config(&self) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Verifier { pin: self.pin.clone(), provider: provider.clone() };
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        // controllers know no names of themselves
        config.enable_sni = false;
        Ok(config)
    }
}

impl<In: Transport> Connector<In> for PinnedTls {
    type Out = Either<In, Tls>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or("").trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(|_| ureq::Error::Tls("no name"))?;
        let mut conn = ClientConnection::new(Arc::new(self.config()?), name)?;
        let mut sock = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        sock.set_timeout(details.timeout);
        while conn.is_handshaking() {
            conn.complete_io(&mut sock)?;
        }
        self.pin.keep();
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Either::B(Tls { buffers, stream: StreamOwned::new(conn, sock) })))
    }
}

/// A connection with TLS.
pub(super) struct Tls {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Transport for Tls {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        Ok(self.stream.write_all(output)?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
