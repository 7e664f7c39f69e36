//! `pkcs11:` URIs: which key, in which token, behind which library.

use std::path::PathBuf;

/// A key as RFC 7512 names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pkcs11Uri {
    /// `module-path`: the token's library.
    pub module: PathBuf,
    /// `pin-source`: the file with the PIN.
    pub pin_source: Option<PathBuf>,
    /// `token`: the token's label.
    pub token: Option<String>,
    /// `serial`: the token's serial number.
    pub serial: Option<String>,
    /// `manufacturer`: the token's.
    pub manufacturer: Option<String>,
    /// `model`: the token's.
    pub model: Option<String>,
    /// `object`: the key's label (CKA_LABEL).
    pub object: Option<String>,
    /// `id`: the key's identifier (CKA_ID), any bytes.
    pub id: Option<Vec<u8>>,
}

/// What is wrong with a URI. Texts never repeat a value: one may be a PIN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriFault {
    /// Another scheme, or none.
    #[error("does not begin with `pkcs11:`")]
    Scheme,
    /// A part is not `name=value`, or its percent-encoding is broken.
    #[error("`{0}` is not of the form name=value with percent-encoded values")]
    Malformed(String),
    /// An attribute stands there twice.
    #[error("`{0}` stands there twice")]
    Twice(String),
    /// An attribute that must not be ignored and that is not known (RFC 7512 §2.3).
    #[error(
        "`{0}` is not known; known are token, serial, manufacturer, model, object, id, type=private, module-path and pin-source"
    )]
    Unknown(String),
    /// The PIN itself.
    #[error(
        "`pin-value` would be a secret in plain sight; name a file with `pin-source`, or set {}",
        crate::PIN_VARIABLE
    )]
    PinValue,
    /// `pin-source` is not a file.
    #[error("`pin-source` must be a file: an absolute path, with or without `file:`")]
    PinSource,
    /// No library.
    #[error(
        "`module-path` is missing: the absolute path of the token's PKCS#11 library, as in `pkcs11:token=ca;object=root?module-path=/usr/lib/softhsm/libsofthsm2.so`"
    )]
    NoModule,
    /// No key.
    #[error("neither `object` nor `id` says which key")]
    NoKey,
}

impl Pkcs11Uri {
    /// Reads a URI.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, UriFault> {
        // RFC 7512 §2.3: the scheme in any case, the rest as it is.
        let rest = text
            .split_at_checked(7)
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("pkcs11:"))
            .map(|(_, rest)| rest)
            .ok_or(UriFault::Scheme)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut found = Found::default();
        for part in path.split(';').filter(|part| !part.is_empty()) {
            let (name, value) = attribute(part)?;
            let slot = match name {
                "token" => &mut found.token,
                "serial" => &mut found.serial,
                "manufacturer" => &mut found.manufacturer,
                "model" => &mut found.model,
                "object" => &mut found.object,
                "id" => &mut found.id,
                "type" if value == b"private" => continue,
                _ => return Err(UriFault::Unknown(name.to_owned())),
            };
            fill(slot, name, value)?;
        }
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = attribute(part)?;
            let slot = match name {
                "module-path" => &mut found.module,
                "pin-source" => &mut found.pin_source,
                "pin-value" => return Err(UriFault::PinValue),
                // RFC 7512 §2.4: others may have use for it.
                _ => continue,
            };
            fill(slot, name, value)?;
        }
        found.check()
    }

    /// The attributes of the token, for messages.
    pub(crate) fn token_text(&self) -> String {
        let parts = [
            ("token", &self.token),
            ("serial", &self.serial),
            ("manufacturer", &self.manufacturer),
            ("model", &self.model),
        ];
        let named: Vec<String> = parts
            .iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={value}")))
            .collect();
        if named.is_empty() {
            "any token".to_owned()
        } else {
            named.join(";")
        }
    }

    /// The attributes of the key, for messages.
    pub(crate) fn key_text(&self) -> String {
        let id = self.id.as_ref().map(|id| {
            let hex: String = id.iter().map(|byte| format!("%{byte:02x}")).collect();
            format!("id={hex}")
        });
        let object = self.object.as_ref().map(|label| format!("object={label}"));
        let named: Vec<String> = [object, id].into_iter().flatten().collect();
        named.join(";")
    }
}

/// Every attribute, decoded.
#[derive(Default)]
struct Found {
    token: Option<Vec<u8>>,
    serial: Option<Vec<u8>>,
    manufacturer: Option<Vec<u8>>,
    model: Option<Vec<u8>>,
    object: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
    module: Option<Vec<u8>>,
    pin_source: Option<Vec<u8>>,
}

impl Found {
    fn check(self) -> Result<Pkcs11Uri, UriFault> {
        let text = |name: &str, value: Option<Vec<u8>>| {
            value
                .map(String::from_utf8)
                .transpose()
                .map_err(|_not_utf8| UriFault::Malformed(name.to_owned()))
        };
        if self.object.is_none() && self.id.is_none() {
            return Err(UriFault::NoKey);
        }
        let module = text("module-path", self.module)?
            .filter(|path| path.starts_with('/'))
            .ok_or(UriFault::NoModule)?;
        let pin_source = match text("pin-source", self.pin_source)? {
            Some(source) => {
                let path = source.strip_prefix("file:").unwrap_or(&source);
                // file:///path (RFC 8089 §2) and the shorter file:/path.
                let path = path.strip_prefix("//").unwrap_or(path);
                if !path.starts_with('/') {
                    return Err(UriFault::PinSource);
                }
                Some(PathBuf::from(path))
            }
            None => None,
        };
        Ok(Pkcs11Uri {
            module: module.into(),
            pin_source,
            token: text("token", self.token)?,
            serial: text("serial", self.serial)?,
            manufacturer: text("manufacturer", self.manufacturer)?,
            model: text("model", self.model)?,
            object: text("object", self.object)?,
            id: self.id,
        })
    }
}

fn fill(slot: &mut Option<Vec<u8>>, name: &str, value: Vec<u8>) -> Result<(), UriFault> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriFault::Twice(name.to_owned())),
    }
}

/// `name=value`, with the value decoded.
fn attribute(part: &str) -> Result<(&str, Vec<u8>), UriFault> {
    let name = part.split('=').next().unwrap_or_default();
    let malformed = || UriFault::Malformed(name.to_owned());
    let (_, value) = part.split_once('=').ok_or_else(malformed)?;
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(bytes.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        match (digit(), digit()) {
            (Some(high), Some(low)) => out.push(high << 4 | low),
            _ => return Err(malformed()),
        }
    }
    Ok((name, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_says_module_token_key_and_where_the_pin_is() {
        let uri = Pkcs11Uri::parse(
            "pkcs11:token=My%20token;object=ca%3bkey;id=%01%fF;type=private;serial=7\
             ?module-path=/usr/lib/a.so&pin-source=file:///run/pin&x-vendor=1",
        )
        .unwrap();
        assert_eq!(uri.module, PathBuf::from("/usr/lib/a.so"));
        assert_eq!(uri.pin_source, Some(PathBuf::from("/run/pin")));
        assert_eq!(uri.token.as_deref(), Some("My token"));
        assert_eq!(uri.object.as_deref(), Some("ca;key"));
        assert_eq!(uri.id.as_deref(), Some(&[1, 255][..]));
        assert_eq!(uri.token_text(), "token=My token;serial=7");
        assert_eq!(uri.key_text(), "object=ca;key;id=%01%ff");
    }

    #[test]
    fn faults_are_told_apart() {
        let fault = |text: &str| Pkcs11Uri::parse(text).unwrap_err();
        assert_eq!(fault("kms:alias/a"), UriFault::Scheme);
        assert_eq!(fault(""), UriFault::Scheme);
        assert_eq!(fault("pkcs11:object"), UriFault::Malformed("object".into()));
        assert_eq!(fault("pkcs11:id=%0"), UriFault::Malformed("id".into()));
        assert_eq!(
            fault("pkcs11:object=a;object=b"),
            UriFault::Twice("object".into())
        );
        assert_eq!(fault("pkcs11:slot=1"), UriFault::Unknown("slot".into()));
        assert_eq!(fault("pkcs11:type=cert"), UriFault::Unknown("type".into()));
        assert_eq!(fault("pkcs11:token=a?module-path=/a.so"), UriFault::NoKey);
        assert_eq!(fault("pkcs11:object=a"), UriFault::NoModule);
        assert_eq!(
            fault("pkcs11:object=a?module-path=a.so"),
            UriFault::NoModule
        );
        let secret = fault("pkcs11:object=a?module-path=/a.so&pin-value=s3cret");
        assert_eq!(secret, UriFault::PinValue);
        assert!(!secret.to_string().contains("s3cret"));
        assert_eq!(
            fault("pkcs11:object=a?module-path=/a.so&pin-source=env:PIN"),
            UriFault::PinSource
        );
    }
}
