#!/usr/bin/env bash
# Fuzzes the readers of foreign files with libFuzzer under AddressSanitizer and UBSan: safetensors, torch.save archives,
# their pickles alone, tar archives, strict JSON; config.json of the model's parts, annotations of videos and listings of
# them, HDF5 files, the content of latent shards. The last five need LibTorch and a release build (launch/build.sh): only
# the readers themselves are compiled anew for them.
#
#   tests/fuzz/run.sh [RUNS] [TARGET...]            inputs for each target (default 1,000,000); all targets by default
#   tests/fuzz/run.sh --seconds N [TARGET...]       the same by time
#
# Inputs have at most 4 KiB, and no reader may take 2 MB in one piece for them: an allocation that the file's size does
# not justify is a failure like any other. What was found lies in build/fuzz/: corpus/TARGET is used again, inputs that
# failed are TARGET-crash-*, TARGET-oom-*, ... Exit code 77: there is no clang with libFuzzer here.
#
# SURGERY_FUZZ_INSTALL=0   do not let launch/setup.sh --fuzz install clang; SURGERY_TORCH_DIR (for the headers of fmt)
#                          and SURGERY_PYTHON say what it otherwise says
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
stop=-runs=1000000
if [[ ${1:-} == --seconds ]]; then
  [[ ${2:-} =~ ^[0-9]+$ ]] || { echo "run.sh: --seconds needs a whole number" >&2; exit 64; }
  stop=-max_total_time=$2
  shift 2
elif [[ ${1:-} =~ ^[0-9]+$ ]]; then
  stop=-runs=$1
  shift
fi
targets=("$@")
((${#targets[@]})) || targets=(safetensors torch_file pickle tar strict_json config_json annotation listing hdf5 latent_shard)
for target in "${targets[@]}"; do
  [[ -e tests/fuzz/${target}_fuzz.cpp ]] || { echo "run.sh: no target $target in tests/fuzz" >&2; exit 64; }
done
if [[ ${SURGERY_FUZZ_INSTALL:-1} == 1 ]]; then
  exports=$(launch/setup.sh --fuzz)
  eval "$exports"
fi

out=build/fuzz
mkdir -p "$out/objects"
exec 9>"$out/lock"
flock 9  # two calls at once would write the same objects
echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' >"$out/probe.cpp"
compiler=
for candidate in clang++-14 clang++; do
  if command -v "$candidate" >/dev/null && "$candidate" -fsanitize=fuzzer,address,undefined "$out/probe.cpp" -o "$out/probe" 2>/dev/null; then
    compiler=$candidate
    break
  fi
done
[[ -n $compiler ]] || { echo "left out: no clang with libFuzzer here (Debian: clang-14 libclang-rt-14-dev)"; exit 77; }

cache=()
command -v ccache >/dev/null && cache=(ccache)
compile() {
  "${cache[@]}" "$compiler" -std=c++20 -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all \
    -DFMT_HEADER_ONLY -Isrc -Itests/fuzz -isystem "$SURGERY_TORCH_DIR/include" $(pkg-config --cflags-only-I hdf5) -c "$1" -o "$2" 9>&-
}
plain=(src/base/{errors,log,text,utf8}.cpp
       src/storage/{atomic_file,dtype,mapped_file,pickle,safetensors,strict_json,tar_archive,torch_content,zip_archive}.cpp)
# What the targets that use LibTorch fuzz; the rest comes from the build of the program.
on_torch=(src/storage/{hdf5_library,hdf5_reader,strict_json}.cpp src/data/{annotation_handler,manifest}.cpp
          src/wan/{text_encoder,transformer,vae}_config.cpp)
of_shard=(src/data/latent_shard.cpp tests/fuzz/hdf5_in_memory.cpp)  # instead of the reader and the writer of files
uses_torch() { [[ $1 == config_json || $1 == annotation || $1 == listing || $1 == hdf5 || $1 == latent_shard ]]; }
sources_of() {
  if [[ $1 == latent_shard ]]; then printf '%s\n' "${of_shard[@]}"
  elif uses_torch "$1"; then printf '%s\n' "${on_torch[@]}"
  else printf '%s\n' "${plain[@]}"; fi
}
object_of() { echo "$out/objects/$(basename "$1" .cpp).o"; }
objects_of() { for source in $(sources_of "$1"); do object_of "$source"; done; }
sources=()
for target in "${targets[@]}"; do
  sources+=("tests/fuzz/${target}_fuzz.cpp" $(sources_of "$target"))
done
mapfile -t sources < <(printf '%s\n' "${sources[@]}" | sort -u)
running=()
for source in "${sources[@]}"; do
  while (($(jobs -rp | wc -l) >= $(nproc))); do wait -n || true; done  # what failed is asked for below
  compile "$source" "$(object_of "$source")" &
  running+=($!)
done
for job in "${running[@]}"; do wait "$job"; done
"${SURGERY_PYTHON:-python3}" tests/fuzz/seeds.py "$out/seeds"

# link TARGET
link() {
  local parts libraries=()
  mapfile -t parts < <(objects_of "$1")
  if uses_torch "$1"; then
    local floor
    for floor in data wan attention parallel storage base; do libraries+=("build/release/src/libsurgery_$floor.a"); done
    libraries=(-Wl,--start-group "${libraries[@]}" -Wl,--end-group -L"$SURGERY_TORCH_DIR/lib" "-Wl,-rpath,$SURGERY_TORCH_DIR/lib"
      -ltorch_cpu -lc10 $(pkg-config --libs hdf5 sentencepiece libavformat libavcodec libavutil libswscale) -lmpi -lxxhash)
  fi
  "$compiler" -fsanitize=fuzzer,address,undefined "$out/objects/$1_fuzz.o" "${parts[@]}" "${libraries[@]}" -o "$out/$1"
}

for target in "${targets[@]}"; do link "$target"; done
flock -u 9  # a long run keeps no other waiting

export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1
for target in "${targets[@]}"; do
  mkdir -p "$out/corpus/$target" "$out/seeds/$target"
  limits=(-max_len=4096 -malloc_limit_mb=2)
  [[ $target != hdf5 ]] || limits=(-max_len=32768 -malloc_limit_mb=16)  # a whole file of HDF5, and the library's buffers
  echo "== $target"
  log=$(mktemp "$out/$target-XXXXXX.log") failed=0
  SURGERY_FUZZ_SEEDS="$out/seeds/$target" "$out/$target" "$stop" "${limits[@]}" -timeout=10 -rss_limit_mb=1024 -dict="$out/seeds/words" \
    -artifact_prefix="$out/$target-" -print_final_stats=1 -verbosity=0 -print_funcs=0 \
    "$out/corpus/$target" "$out/seeds/$target" >"$log" 2>&1 || failed=1
  mv "$log" "$out/$target.log"
  if ((failed)); then
    tail -n 60 "$out/$target.log"
    echo "run.sh: $target failed; its log is $out/$target.log" >&2
    exit 1
  fi
  grep '^stat::' "$out/$target.log"
done
