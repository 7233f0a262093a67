//! Names of topics, and patterns of names.
//!
//! A name consists of tokens with dots between them. In a pattern `*` stands for exactly one token and `>`, as the last,
//! for one or more. A pattern that begins with a wildcard takes no name that begins with `$`: those are the server's own.
//!
//! Pure. [`Trie`] holds the patterns of a namespace by their tokens. Finding those that take a name costs two look-ups for
//! each node that a part of the name leads to: one node a token where only names without wildcards are bound, however
//! many; at most 2^n at the n-th token, and no more than the trie has there, where `*` stands beside every token. Each
//! pattern found is handed out once.

use std::collections::HashMap;

use hashbrown::DefaultHashBuilder;
use slab::Slab;

use crate::ids::own_group;
use crate::limits::TOPIC_TOKENS_MAX;

/// What the names of system topics begin with.
pub(super) const SYSTEM_PREFIX: &str = "$sys.";
/// Exactly one token.
const ONE: &str = "*";
/// One token or more.
const REST: &str = ">";

/// Whether a name or a pattern is for system topics.
pub(super) fn is_system(name: &str) -> bool {
    name.starts_with(SYSTEM_PREFIX)
}

/// Checks that `pattern` is one.
///
/// # Errors
/// The text names the column, from 1, and what is wrong there.
pub fn check(pattern: &str) -> Result<(), String> {
    own_group(pattern).map_err(|other| format!("the pattern at column 1: {other}"))?;
    let mut column = 1;
    let tokens = pattern.split('.').count();
    for (at, token) in pattern.split('.').enumerate() {
        let fault = if token.is_empty() {
            Some("a token is empty".to_owned())
        } else if token == REST && at + 1 < tokens {
            Some("'>' stands for the rest of a name, so it is the last token".to_owned())
        } else if token.len() > 1 && token.contains(['*', '>']) {
            Some("a wildcard is a token of its own: '*' for one, '>' for the rest".to_owned())
        } else if at >= TOPIC_TOKENS_MAX {
            Some(format!("a pattern has at most {TOPIC_TOKENS_MAX} tokens"))
        } else {
            None
        };
        if let Some(fault) = fault {
            return Err(format!("the pattern {pattern:?} at column {column}: {fault}"));
        }
        column += token.len() + 1;
    }
    Ok(())
}

/// Patterns, each with the number of what it is for.
#[derive(Debug)]
pub struct Trie {
    nodes: Slab<Node>,
    root: usize,
}

#[derive(Debug, Default)]
struct Node {
    by_token: HashMap<Box<str>, usize, DefaultHashBuilder>,
    /// Behind `*`.
    any: Option<usize>,
    /// Patterns that end here.
    here: Vec<u32>,
    /// Patterns that go on with `>`.
    rest: Vec<u32>,
}

impl Node {
    fn child(&self, token: &str) -> Option<usize> {
        if token == ONE { self.any } else { self.by_token.get(token).copied() }
    }

    fn is_empty(&self) -> bool {
        self.by_token.is_empty() && self.any.is_none() && self.here.is_empty() && self.rest.is_empty()
    }
}

impl Default for Trie {
    fn default() -> Self {
        let mut nodes = Slab::new();
        let root = nodes.insert(Node::default());
        Self { nodes, root }
    }
}

impl Trie {
    /// Adds a pattern that was checked.
    pub fn insert(&mut self, pattern: &str, number: u32) {
        let (path, is_rest) = split(pattern);
        let mut at = self.root;
        for token in path {
            at = match self.nodes[at].child(token) {
                Some(child) => child,
                None => {
                    let child = self.nodes.insert(Node::default());
                    let node = &mut self.nodes[at];
                    match token {
                        ONE => node.any = Some(child),
                        _ => drop(node.by_token.insert(token.into(), child)),
                    }
                    child
                }
            };
        }
        let node = &mut self.nodes[at];
        if is_rest { node.rest.push(number) } else { node.here.push(number) }
    }

    /// Takes a pattern out again; nothing is left of it.
    pub fn remove(&mut self, pattern: &str, number: u32) {
        let (path, is_rest) = split(pattern);
        let mut way = vec![(self.root, "")];
        for token in path {
            let Some(child) = way.last().and_then(|&(at, _)| self.nodes[at].child(token)) else { return };
            way.push((child, token));
        }
        let Some(&(end, _)) = way.last() else { return };
        let node = &mut self.nodes[end];
        let numbers = if is_rest { &mut node.rest } else { &mut node.here };
        numbers.retain(|&other| other != number);
        while let (Some((at, token)), Some(&(parent, _))) = (way.pop(), way.last()) {
            if !self.nodes[at].is_empty() {
                break;
            }
            self.nodes.remove(at);
            let parent = &mut self.nodes[parent];
            match token {
                ONE => parent.any = None,
                _ => drop(parent.by_token.remove(token)),
            }
        }
    }

    /// Hands out the number of every pattern that takes `name`, in no order.
    pub fn find(&self, name: &str, mut found: impl FnMut(u32)) {
        // No pattern but one that ends with '>' takes a name of more tokens, and it takes all alike.
        let mut nodes = vec![self.root];
        let is_own = name.starts_with('$');
        for (depth, token) in name.split('.').enumerate() {
            let may_be_any = depth > 0 || !is_own;
            let mut next = Vec::with_capacity(nodes.len());
            for &at in &nodes {
                let node = &self.nodes[at];
                if may_be_any {
                    node.rest.iter().copied().for_each(&mut found);
                    next.extend(node.any);
                }
                next.extend(node.by_token.get(token));
            }
            nodes = next;
            if nodes.is_empty() {
                return;
            }
        }
        nodes.into_iter().flat_map(|at| &self.nodes[at].here).copied().for_each(found);
    }

    /// Nodes it has.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.nodes.len()
    }
}

/// The tokens that lead to a pattern's node, and whether it goes on with `>`.
fn split(pattern: &str) -> (impl Iterator<Item = &str>, bool) {
    let is_rest = pattern == REST || pattern.ends_with(".>");
    let count = pattern.split('.').count() - usize::from(is_rest);
    (pattern.split('.').take(count), is_rest)
}

#[cfg(test)]
mod tests;
