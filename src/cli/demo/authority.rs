//! A certificate authority and what it signs, made anew for each demo.

use std::net::Ipv4Addr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, Error, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// An authority.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
    pub(super) certificate: CertificateDer<'static>,
}

/// A certificate signed by an authority, and its key.
pub(super) struct Identity {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) certificate_pem: String,
    key: KeyPair,
}

impl Authority {
    /// A new one, self-signed.
    pub(super) fn new(name: &str) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        parameters.distinguished_name.push(DnType::CommonName, name);
        let certificate = parameters.self_signed(&key)?;
        let (pem, certificate) = (certificate.pem(), certificate.der().clone());
        Ok(Self { issuer: Issuer::new(parameters, key), pem, certificate })
    }

    /// A certificate of a service on this machine.
    pub(super) fn sign_service(&self) -> Result<Identity, Error> {
        self.sign(&Ipv4Addr::LOCALHOST.to_string(), ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate of a client.
    pub(super) fn sign_client(&self, name: &str) -> Result<Identity, Error> {
        self.sign(name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Result<Identity, Error> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new([name.to_owned()])?;
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.extended_key_usages = vec![usage];
        let signed = parameters.signed_by(&key, &self.issuer)?;
        let certificate_pem = signed.pem();
        Ok(Identity { certificate: signed.der().clone(), certificate_pem, key })
    }
}

impl Identity {
    /// The private key as a file has it.
    pub(super) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The private key as TLS wants it.
    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}
