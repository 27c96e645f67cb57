//! The hash tree of RFC 6962, section 2.1, as it grows: of all its leaves only the roots of the perfect subtrees are kept,
//! the largest first. That is enough to append and to know the root. Pure.

use sha2::{Digest, Sha256};

/// A SHA-256.
pub type Hash = [u8; HASH_BYTES];

/// Bytes of a hash.
pub const HASH_BYTES: usize = 32;

/// Begins what is hashed for a leaf; another byte than for a node, so that neither passes for the other.
pub const LEAF_PREFIX: u8 = 0;
const NODE_PREFIX: u8 = 1;

/// The hash of a node above two others.
pub fn node(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [NODE_PREFIX; 1 + 2 * HASH_BYTES];
    bytes[1..=HASH_BYTES].copy_from_slice(left);
    bytes[1 + HASH_BYTES..].copy_from_slice(right);
    Sha256::digest(bytes).into()
}

/// A tree of `size` leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    roots: Vec<Hash>,
}

impl Tree {
    /// As [`Tree::roots`] gave it. None where the roots cannot be of so many leaves.
    pub fn of(size: u64, roots: &[u8]) -> Option<Self> {
        let (roots, rest) = roots.as_chunks::<HASH_BYTES>();
        let fits = rest.is_empty() && roots.len() == size.count_ones() as usize;
        fits.then(|| Self { size, roots: roots.to_vec() })
    }

    /// Its leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of its perfect subtrees, one after the other, the largest first: a subtree for each bit of the size.
    pub fn roots(&self) -> Vec<u8> {
        self.roots.concat()
    }

    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            let left = self.roots.pop().expect("there is a root for each bit of the size");
            hash = node(&left, &hash);
        }
        self.roots.push(hash);
        self.size += 1;
    }

    /// The root of all of it; that of no leaves is the hash of nothing.
    pub fn root(&self) -> Hash {
        let mut from_the_right = self.roots.iter().rev();
        let Some(smallest) = from_the_right.next() else { return Sha256::digest([]).into() };
        from_the_right.fold(*smallest, |right, left| node(left, &right))
    }
}

/// Finds the inclusion proofs of some leaves while all of them pass by (RFC 6962, section 2.1.1).
#[derive(Debug, Default)]
pub struct Paths {
    /// What is not yet under one root: how many leaves, their root, and which of the wanted ones are among them.
    pending: Vec<(u64, Hash, Vec<usize>)>,
    paths: Vec<Vec<Hash>>,
}

impl Paths {
    /// The next leaf. Where its path is wanted, the number under which [`Paths::finish`] gives it.
    pub fn push(&mut self, leaf: Hash, is_wanted: bool) -> Option<usize> {
        let wanted = is_wanted.then(|| {
            self.paths.push(Vec::new());
            self.paths.len() - 1
        });
        self.pending.push((1, leaf, wanted.into_iter().collect()));
        while let [.., (left, ..), (right, ..)] = self.pending[..]
            && left == right
        {
            self.join();
        }
        wanted
    }

    /// The paths, from the leaf's sibling upwards.
    pub fn finish(mut self) -> Vec<Vec<Hash>> {
        while self.pending.len() > 1 {
            self.join();
        }
        self.paths
    }

    fn join(&mut self) {
        let (Some(right), Some(left)) = (self.pending.pop(), self.pending.pop()) else { return };
        left.2.iter().for_each(|wanted| self.paths[*wanted].push(right.1));
        right.2.iter().for_each(|wanted| self.paths[*wanted].push(left.1));
        let mut wanted = left.2;
        wanted.extend(right.2);
        self.pending.push((left.0 + right.0, node(&left.1, &right.1), wanted));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf(bytes: &[u8]) -> Hash {
        Sha256::new().chain_update([LEAF_PREFIX]).chain_update(bytes).finalize().into()
    }

    fn hex(hash: Hash) -> String {
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// As the RFC words it.
    fn naive(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node(&naive(left), &naive(right))
            }
        }
    }

    /// RFC 6962, section 2.1.1, by way of RFC 9162, section 2.1.3.2.
    fn root_by_path(mut index: u64, size: u64, leaf: Hash, path: &[Hash]) -> Hash {
        let (mut last, mut hash) = (size - 1, leaf);
        for sibling in path {
            if index % 2 == 1 || index == last {
                hash = node(sibling, &hash);
                while index.is_multiple_of(2) && index != 0 {
                    (index, last) = (index / 2, last / 2);
                }
            } else {
                hash = node(&hash, sibling);
            }
            (index, last) = (index / 2, last / 2);
        }
        hash
    }

    /// Leaves and roots of the reference implementation's tests (certificate-transparency, merkle_tree_test.cc).
    #[test]
    fn roots_are_those_of_the_reference() {
        let leaves: [&[u8]; 8] = [
            &[],
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ];
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Tree::default();
        assert_eq!(hex(tree.root()), roots[0]);
        for (bytes, root) in leaves.iter().zip(&roots[1..]) {
            tree.push(leaf(bytes));
            assert_eq!(hex(tree.root()), *root);
        }
    }

    proptest! {
        #[test]
        fn a_growing_tree_and_its_paths_agree_with_the_definition(size in 1_usize..200, wanted in 0_usize..200) {
            let leaves: Vec<Hash> = (0..size).map(|n| leaf(&n.to_be_bytes())).collect();
            let (mut tree, mut paths) = (Tree::default(), Paths::default());
            for (n, leaf) in leaves.iter().enumerate() {
                // As the writer has it: from the file, at every transaction.
                tree = Tree::of(tree.size(), &tree.roots()).expect("its own roots");
                tree.push(*leaf);
                prop_assert_eq!(tree.root(), naive(&leaves[..=n]));
                paths.push(*leaf, n == wanted % size || n == 0);
            }
            let paths = paths.finish();
            let last = paths.last().expect("one was wanted");
            let index = wanted % size;
            prop_assert_eq!(root_by_path(index as u64, size as u64, leaves[index], last), tree.root());
            prop_assert_eq!(root_by_path(0, size as u64, leaves[0], &paths[0]), tree.root());
        }
    }

    #[test]
    fn roots_that_cannot_be_of_the_size_are_no_tree() {
        assert!(Tree::of(0, &[]).is_some());
        for (size, bytes) in [(1, 0), (3, 32), (3, 65), (0, 32), (4, 64)] {
            assert!(Tree::of(size, &vec![0; bytes]).is_none(), "{size} leaves, {bytes} bytes");
        }
    }
}
