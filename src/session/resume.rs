//! Resume tokens.
//!
//! ```text
//! bytes 0..8    epoch, little endian
//! bytes 8..16   session id, little endian
//! bytes 16..32  the first half of BLAKE3, keyed, over namespace, client id (each behind its length), epoch, session id
//! ```
//!
//! Whether a token is the newest of its session is not known here; the shard says.

use std::fmt;

use subtle::ConstantTimeEq;

use crate::ids::{ClientId, Epoch, Namespace};
use crate::limits;

/// Length of a token.
pub const TOKEN_BYTES: usize = 32;
const MAC_BYTES: usize = 16;

const _: () = assert!(TOKEN_BYTES <= limits::RESUME_TOKEN_BYTES_MAX);

/// The key that makes resume tokens authentic, from the data directory.
#[derive(Clone, PartialEq, Eq)]
pub struct ResumeKey(pub [u8; 32]);

impl fmt::Debug for ResumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeKey(..)")
    }
}

impl ResumeKey {
    /// The token that resumes this session later.
    #[must_use]
    pub fn issue(
        &self,
        namespace: &Namespace,
        client: &ClientId,
        epoch: Epoch,
        session_id: u64,
    ) -> [u8; TOKEN_BYTES] {
        let mut token = [0; TOKEN_BYTES];
        token[..8].copy_from_slice(&epoch.0.to_le_bytes());
        token[8..16].copy_from_slice(&session_id.to_le_bytes());
        let mac = self.mac(namespace, client, &token[..16]);
        token[16..].copy_from_slice(&mac);
        token
    }

    /// What the token says, if this server made it for this client.
    #[must_use]
    pub fn verify(&self, token: &[u8], namespace: &Namespace, client: &ClientId) -> Option<(Epoch, u64)> {
        let token: &[u8; TOKEN_BYTES] = token.try_into().ok()?;
        let (said, mac) = token.split_at(TOKEN_BYTES - MAC_BYTES);
        let authentic: bool = self.mac(namespace, client, said).ct_eq(mac).into();
        let (epoch, session_id) = said.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
        authentic.then(|| (Epoch(number(epoch)), number(session_id)))
    }

    fn mac(&self, namespace: &Namespace, client: &ClientId, said: &[u8]) -> [u8; MAC_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for name in [namespace.as_str(), client.as_str()] {
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        }
        hasher.update(said);
        let hash = hasher.finalize();
        std::array::from_fn(|i| hash.as_bytes()[i])
    }
}
