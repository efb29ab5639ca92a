/* Passes of the adapter's step over rows and weights, all that it has beside its matrix products.
 *
 * PyTorch has an operation for each sum, scale, copy between precisions and ReLU. Between two products they go over the
 * same rows several times, and on several threads each of them starts and ends a region of its own. Here what lies
 * between two products is one pass and one region. adapter.py lays the passes out as calls of a step.
 *
 * A pass takes the address of a structure with its arguments, divides its rows among threads, and returns one of the
 * faults below. Rows do not depend on each other, so that results do not depend on the number of threads. Structures
 * here and in library.py have the same fields in the same order.
 *
 * Numbers of rows, classes and maps are float32 or bfloat16 (typed_passes.h is included once for each); lengths, sums,
 * losses, parameters and moments are float32.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* One build runs on every processor of its kind, each with the widest vectors it has. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define ANY_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ANY_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))
#define EXPORTED __attribute__((visibility("default")))

/* The check sum of the sources that this was built from, so that library.py sees when they have changed. */
EXPORTED const uint32_t passes_sources = SOURCES;

/* ------------------------------------------------------------------------------------------------ numbers */

typedef uint16_t bfloat16; /* the upper half of a float32 */

INLINE float as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

INLINE uint32_t as_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

INLINE float widen_bfloat16(bfloat16 value) { return as_float((uint32_t)value << 16); }

/* Rounds to nearest, ties to even, as IEEE 754 does; NaN stays NaN. */
INLINE bfloat16 narrow_bfloat16(float value) {
  uint32_t bits = as_bits(value);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (bfloat16)rounded;
}

INLINE float widen_float32(float value) { return value; }
INLINE float narrow_float32(float value) { return value; }

/* e^x for x <= 0, to 2 units in the last place; below -87 it is e^-87, 1.6e-38, which no sum of probabilities sees.
 *
 * x = k ln 2 + r with |r| <= ln 2 / 2, so e^x = 2^k e^r. ln 2 is split so that k times its first part is exact, and e^r
 * is Cephes' polynomial for expf (S. Moshier, netlib). Adding 1.5 * 2^23 rounds to an integer, which is then in the
 * lowest bits. A call of expf would keep the loop from being vectorised. */
INLINE float exponential(float x) {
  const float shift = 12582912.0f;
  x = x < -87.0f ? -87.0f : x;
  float shifted = x * 1.44269504088896341f + shift;
  float k = shifted - shift;
  float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * as_float((as_bits(shifted) + 127) << 23);
}

/* ------------------------------------------------------------------------------------------------ threads */

enum { NO_FAULT = 0, NO_MEMORY = 1, NO_SUCH_ROW = 2 };

typedef int (*Part)(const void *pass, ptrdiff_t first, ptrdiff_t last);

/* Numbers of a part below which a thread costs more than it gains: a region takes one or two microseconds. */
#define LEAST_NUMBERS 32768

/* Runs a pass over n rows of so many numbers each on the threads that OpenMP gives this thread: those of PyTorch, whose
 * OpenMP this is (library.py). */
static int run(Part part, const void *pass, ptrdiff_t n, ptrdiff_t numbers) {
#ifdef _OPENMP
  ptrdiff_t most = n * numbers / LEAST_NUMBERS;
  int threads = omp_get_max_threads();
  threads = threads < most ? threads : (int)most;
  threads = threads < n ? threads : (int)n;
  if (threads > 1) {
    int fault = NO_FAULT;
#pragma omp parallel num_threads(threads) reduction(max : fault)
    {
      ptrdiff_t own = omp_get_thread_num(), all = omp_get_num_threads();
      fault = part(pass, n * own / all, n * (own + 1) / all);
    }
    return fault;
  }
#endif
  return part(pass, 0, n);
}

/* ------------------------------------------------------------------------------------------------ passes */

/* out[i] = rows[index[i]], n of them, of so many bytes each. */
typedef struct {
  const char *rows;
  const int64_t *index;
  char *out;
  int64_t available, n, bytes;
} Gather;

/* Rows are somewhere in memory, so that they are asked for before they are needed. */
#define ROWS_AHEAD 4
#define CACHE_LINE 64

ANY_PROCESSOR static int gather_rows(const void *pass, ptrdiff_t first, ptrdiff_t last) {
  const Gather *a = pass;
  for (ptrdiff_t i = first; i < last; i++)
    if (a->index[i] < 0 || a->index[i] >= a->available)
      return NO_SUCH_ROW;
  for (ptrdiff_t i = first; i < last; i++) {
    if (i + ROWS_AHEAD < last) {
      const char *ahead = a->rows + a->index[i + ROWS_AHEAD] * a->bytes;
      for (int64_t offset = 0; offset < a->bytes; offset += CACHE_LINE)
        __builtin_prefetch(ahead + offset);
    }
    memcpy(a->out + i * a->bytes, a->rows + a->index[i] * a->bytes, (size_t)a->bytes);
  }
  return NO_FAULT;
}

EXPORTED int gather(const Gather *a) { return run(gather_rows, a, a->n, a->bytes / 2); }

/* Of k matrices (rows, width), row i of matrix m is at value + m of_matrix + i of_row.
 * relu: out = max(in, 0); zero_where_zero: out = in, but 0 where activation is 0. */
typedef struct {
  const void *in, *activation;
  void *out;
  int64_t matrices, rows, width;
  int64_t in_matrix, in_row, activation_matrix, activation_row, out_matrix, out_row;
} Activation;

/* q = ratio A + (1 - ratio) x, rounded, and of the rounded row r = 1/|q| (0 where q is 0; not asked for where r is
 * null). A released adapter's A is max(A, 0), written back. Row i is row i % rows of configuration i / rows; with
 * ratio_per_row each row has its ratio, else each configuration; x_shared: all configurations have the same x.
 * A and q may be the same memory. */
typedef struct {
  const void *x;
  void *adapted, *q;
  const float *ratio;
  float *r;
  int64_t configurations, rows, width, ratio_per_row, x_shared, released;
} Blend;

/* Cosines (n, c) become weight G, and u = weight r^2 (q . U) q; letters as in cpu.py. With L = s r cosines of row i,
 * P = softmax(L) and D = P - Y:
 *
 *   weight G_ij = weight s r_i D_ij        u_i = q_i weight r_i^2 sum_j D_ij L_ij
 *
 * Of the label y, D is minus the sum of the others, not P - 1: a row that is right beyond doubt then has no gradient,
 * where P - 1 would leave a rounding error that Adam scales up. So sum_j D_ij L_ij = sum_{j not y} P_ij (L_ij - L_iy).
 * losses[i] = logsumexp(L_i) - L_iy. u and losses may be null. Labels are those of rows index[], which gather has
 * seen to exist: row i of configuration m is index[m index_of_matrix + i], where index_of_matrix is 0 if they share
 * their rows. */
typedef struct {
  void *cosines;
  const void *q;
  void *u;
  const float *r, *scale, *weight;
  const int64_t *labels, *index;
  float *losses;
  int64_t configurations, rows, classes, width, index_of_matrix;
} Errors;

/* AdamW (arXiv 1711.05101, algorithm 2) and SGD with momentum on n numbers, as in optimizers.py; narrow, unless null,
 * takes the rounded parameters. Corrections are 1 - beta^t of step t. */
typedef struct {
  float *parameters, *first, *second;
  const void *gradients;
  bfloat16 *narrow;
  int64_t n;
  float rate, decay, beta1, beta2, eps, correction1, correction2;
} Update;

/* Updates are divided among threads by so many numbers. */
#define UPDATED_TOGETHER 64

#define NUMBER float
#define WIDEN widen_float32
#define NARROW narrow_float32
#define NAMED(name) name##_float32
#include "typed_passes.h"
#undef NUMBER
#undef WIDEN
#undef NARROW
#undef NAMED

#define NUMBER bfloat16
#define WIDEN widen_bfloat16
#define NARROW narrow_bfloat16
#define NAMED(name) name##_bfloat16
#include "typed_passes.h"
