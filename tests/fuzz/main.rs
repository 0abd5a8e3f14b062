//! `FUZZ_TARGET=… fuzz [OPTION…] [DIRECTORY…]`: a target of `piaas_bake::fuzz` under libFuzzer, whose options and
//! directories these are (<https://llvm.org/docs/LibFuzzer.html>). The target is no argument, because libFuzzer starts
//! this program anew with arguments of its own.

use std::ffi::{CString, c_char, c_int};

use piaas_bake::fuzz::{TARGETS, Target};

type Callback = unsafe extern "C" fn(*const u8, usize) -> c_int;

unsafe extern "C" {
    // llvm-project, compiler-rt/lib/fuzzer/FuzzerInterface.h and the chapter "Using libFuzzer as a library".
    fn LLVMFuzzerRunDriver(argc: *mut c_int, argv: *mut *mut *mut c_char, run: Callback) -> c_int;
}

static TARGET: std::sync::OnceLock<Target> = std::sync::OnceLock::new();

/// One input. A panic ends the process, as it must not leave such a function; libFuzzer then keeps the input.
unsafe extern "C" fn run(data: *const u8, size: usize) -> c_int {
    let input: &[u8] = if size == 0 {
        &[]
    } else {
        // SAFETY: libFuzzer hands over that many bytes, which live until this returns.
        unsafe { std::slice::from_raw_parts(data, size) }
    };
    let target = TARGET
        .get()
        .expect("`main` chose one before the first input");
    (target.run)(input);
    0
}

fn main() -> std::process::ExitCode {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let Some(target) = TARGETS.into_iter().find(|target| target.name == name) else {
        let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!(
            "error: FUZZ_TARGET is `{name}`, and there is no such target; there are: {}",
            known.join(", ")
        );
        return std::process::ExitCode::from(2);
    };
    TARGET.get_or_init(|| target);
    let words: Vec<CString> = std::env::args()
        .map(|word| {
            CString::new(word).expect("arguments come from the kernel, which ends them with NUL")
        })
        .collect();
    let mut pointers: Vec<*mut c_char> =
        words.iter().map(|word| word.as_ptr().cast_mut()).collect();
    let mut count = c_int::try_from(pointers.len()).expect("nobody gives that many arguments");
    pointers.push(std::ptr::null_mut());
    let mut pointers = pointers.as_mut_ptr();
    // SAFETY: as `main` of C would have them: so many texts, and a null pointer after them, alive until the end.
    let status = unsafe { LLVMFuzzerRunDriver(&raw mut count, &raw mut pointers, run) };
    std::process::ExitCode::from(u8::from(status != 0))
}
