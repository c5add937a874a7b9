#!/usr/bin/env bash
# Run the tests of numbers as other machines compute: with the kernels of older and newer processors, in BLAS and torch,
# on 1, 2 and 4 threads. Expected values must not rest on rounding. Words go to pytest: tests/kernels.sh -x tests/unit.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ $# -gt 0 ] || set -- tests/unit tests/reference $(ls -d tests/tables 2>/dev/null)
failed=0

as() {  # NAME OPENBLAS ATEN MKL ONEDNN THREADS WORDS...
    echo "== $1: OpenBLAS $2, torch $3, MKL $4, oneDNN $5, $6 threads"
    OPENBLAS_CORETYPE=$2 ATEN_CPU_CAPABILITY=$3 MKL_ENABLE_INSTRUCTIONS=$4 ONEDNN_MAX_CPU_ISA=$5 TEST_THREADS=$6 \
        OPENBLAS_NUM_THREADS=$6 "$python" -m pytest -q -m "not slow" "${@:7}" || failed=1
}

as "no AVX" Haswell default SSE4_2 SSE41 1 "$@"
as "AVX2" Zen avx2 AVX2 AVX2 2 "$@"
if grep -q avx512f /proc/cpuinfo; then
    as "AVX-512" SkylakeX avx512 AVX512 AVX512_CORE 4 "$@"
else
    echo "== AVX-512: not this processor"
fi
exit $failed
