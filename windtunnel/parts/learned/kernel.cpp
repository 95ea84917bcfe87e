// One step of a learned optimizer for a batch of tensors: accumulators, statistics, features, network, in a few passes.
//
// The same mathematics as features.py and network.py, which say what the names mean. Sixteen entries are worked on at a
// time and two such vectors go through the network together; a feature and a hidden unit are a vector each, so that
// between gradient and step nothing goes through memory. Sums are added in the order of rows, so the same number of
// threads gives the same bits.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

typedef float vec __attribute__((vector_size(64)));
typedef int ivec __attribute__((vector_size(64)));
enum { LANES = 16, PAIR = 2, BLOCK = 8, MOST_DENSE = 18, MOST_HIDDEN = 128, KINDS = 3, SHARED = 6 };

static inline vec all(float x) { return x - vec{}; }
static inline vec load(const float *at, long n) {
  vec v = {};
  if (n >= LANES) std::memcpy(&v, at, sizeof v);  // of a size known here: one instruction
  else std::memcpy(&v, at, n * sizeof(float));
  return v;
}
static inline vec positive(vec x) { return (vec)((ivec)x & (x > vec{})); }
// 1 / sqrt(x) by halving the exponent and three steps of Newton's: a third of what root and division take.
static inline vec root_inverse(vec x) {
  vec y = (vec)(0x5f375a86 - ((ivec)x >> 1));
  for (int i = 0; i < 3; i++) y = y * (1.5f - 0.5f * x * y * y);
  return y;
}
static inline vec between(vec x, float low, float high) {
  x = x > all(high) ? all(high) : x;
  return x < all(low) ? all(low) : x;
}
// exp to 2 ulp: 2^n times a polynomial of the rest (Cephes' expf).
static inline vec exponential(vec x) {
  x = between(x, -87.0f, 88.0f);
  const vec turns = x * 1.44269504f + all(12582912.0f) - all(12582912.0f);
  const vec r = x - turns * 0.693359375f + turns * 2.12194440e-4f;
  vec p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f, p = p * r + 8.3334519073e-3f, p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f, p = p * r + 5.0000001201e-1f;
  const vec y = p * r * r + r + 1.0f;
  return y * (vec)((__builtin_convertvector(turns, ivec) + 127) << 23);
}

struct Spec {  // what holds for all tensors of a call
  long others, a, b;
  int clipped, scale_free, factored, row_is_a, times, hidden, outputs, threads;
  float second_eps, normaliser_eps, magnitude;
  const float *time;
  long size() const { return others * a * b; }
  int first_shared() const { return 13 + 2 * clipped; }  // of the published order: rows, columns, their roots
  int dense() const { return first_shared() + KINDS; }
  int dense_at(int k) const { return k < first_shared() ? k : k + 12; }
};
struct State {  // of one tensor; each (others, a, b), over_b (3, others, a), over_a (3, others, b)
  float *mean[KINDS], *square, *over_b, *over_a;
};
struct Net {  // (inputs, hidden) in the published order, and the layers after it; hidden is a multiple of BLOCK
  const float *w0, *b0, *w1, *b1, *w2, *b2;
};
struct Known {  // statistics of one tensor, after the accumulators have moved
  std::vector<float> of_a, grad_b, mean_b, row, column, folded;
  float scale;
};

static void accumulate(const Spec &s, const float *grad, const State &old, const State &now, const float *decay) {
  const long rows = s.others * s.a;
  std::vector<double> by_row(rows), by_column(s.threads * s.others * s.b);
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1) schedule(static)
  for (int p = 0; p < s.threads; p++) {
    double *columns = by_column.data() + p * s.others * s.b;
    for (long r = rows * p / s.threads; r < rows * (p + 1) / s.threads; r++) {
      const float *g = grad + r * s.b;
      for (int k = 0; k < KINDS; k++) {
        const float *from = old.mean[k] + r * s.b;
        float *to = now.mean[k] + r * s.b;
        for (long x = 0; x < s.b; x++) to[x] = from[x] + (1 - decay[k]) * (g[x] - from[x]);
      }
      const float *from = old.square + r * s.b;
      float *to = now.square + r * s.b;
      for (long x = 0; x < s.b; x++) to[x] = from[x] + (1 - decay[3]) * (g[x] * g[x] - from[x]);
      double *here = columns + (r / s.a) * s.b, sum = 0;
      for (long x = 0; x < s.b; x++) {
        const float squared = g[x] * g[x] + 1e-30f;
        here[x] += squared, sum += squared;
      }
      by_row[r] = sum / s.b;
    }
  }
  for (int k = 0; k < KINDS; k++) {
    const float share = 1 - decay[4 + k];
    for (long x = 0; x < s.others * s.b; x++) {
      double sum = 0;
      for (int p = 0; p < s.threads; p++) sum += by_column[p * s.others * s.b + x];
      const float from = old.over_a[k * s.others * s.b + x];
      now.over_a[k * s.others * s.b + x] = from + share * ((float)(sum / s.a) - from);
    }
    for (long r = 0; s.factored && r < rows; r++) {
      const float from = old.over_b[k * rows + r];
      now.over_b[k * rows + r] = from + share * ((float)by_row[r] - from);
    }
  }
}

// Statistics and one over their roots, normalised: (6, others * side).
static std::vector<float> shared(const Spec &s, const std::vector<float> &statistic, long sides) {
  std::vector<float> found(SHARED * sides);
  for (int k = 0; k < SHARED; k++) {
    double sum = 0;
    for (long x = 0; x < sides; x++) {
      const float at = statistic[(k % KINDS) * sides + x], value = k < KINDS ? at : 1 / std::sqrt(at + 1e-8f);
      found[k * sides + x] = value, sum += (double)value * value;
    }
    const float by = 1 / std::sqrt((float)(sum / sides) + s.normaliser_eps);
    for (long x = 0; x < sides; x++) found[k * sides + x] *= by;
  }
  return found;
}

static float weight_of(const Spec &s, const Net &net, int feature, int is_column, int j) {
  const int k = s.first_shared() + (feature < KINDS ? feature : feature + KINDS) + KINDS * is_column;
  return net.w0[(long)k * s.hidden + j];
}

static Known statistics(const Spec &s, const State &now, const Net &net, float step) {
  Known known;
  const long rows = s.others * s.a, columns = s.others * s.b;
  known.scale = 1;
  if (s.scale_free) {
    double sum = 0;
    for (long r = 0; r < rows; r++) {
      float part = 0;
      for (long x = 0; x < s.b; x++) part += now.square[r * s.b + x];
      sum += part;
    }
    known.scale = 1 / std::sqrt(std::max((float)(sum / s.size()), 1e-36f));
  }
  const float squared = known.scale * known.scale;
  std::vector<float> over_a(KINDS * columns), over_b(s.factored ? KINDS * rows : 0);
  for (size_t x = 0; x < over_a.size(); x++) over_a[x] = now.over_a[x] * squared;
  for (size_t x = 0; x < over_b.size(); x++) over_b[x] = now.over_b[x] * squared;
  known.grad_b.resize(over_a.size()), known.mean_b.resize(over_a.size()), known.of_a.assign(KINDS * rows, 1.0f);
  auto as_row = [&](const std::vector<float> &of, std::vector<float> &into, long side) {
    for (long block = 0; block < KINDS * s.others; block++) {
      double sum = 0;
      for (long x = 0; x < side; x++) sum += of[block * side + x];
      const float mean = (float)(sum / side) + 1e-9f;
      for (long x = 0; x < side; x++) into[block * side + x] = 1 / std::sqrt(std::max(of[block * side + x] / mean, 1e-9f));
    }
  };
  auto as_column = [&](const std::vector<float> &of, std::vector<float> &into) {
    for (size_t x = 0; x < of.size(); x++) into[x] = 1 / std::sqrt(std::max(of[x], 1e-9f));
  };
  if (!s.factored) {
    for (size_t x = 0; x < over_a.size(); x++) {
      known.grad_b[x] = 1 / std::sqrt(std::max(over_a[x] + 1e-9f, 1e-9f));
      known.mean_b[x] = 1 / std::sqrt(over_a[x] + (s.clipped ? 0.0f : 1e-6f));
    }
  } else {
    if (s.row_is_a) as_row(over_b, known.of_a, s.a), as_column(over_a, known.grad_b);
    else as_column(over_b, known.of_a), as_row(over_a, known.grad_b, s.b);
    known.mean_b = known.grad_b;
  }
  // what rows and columns add before the first layer's relu, all biases with the rows
  std::vector<float> bias(net.b0, net.b0 + s.hidden);
  for (int k = 0; k < s.times; k++) {
    const float value = std::tanh(step / s.time[k] - 1);
    for (int j = 0; j < s.hidden; j++) bias[j] += value * net.w0[(long)(28 + 2 * s.clipped + k) * s.hidden + j];
  }
  const std::vector<float> along = shared(s, over_a, columns);
  known.column.assign(s.hidden * columns, 0.0f);
  for (int j = 0; j < s.hidden; j++)
    for (int k = 0; k < SHARED; k++) {
      float w = weight_of(s, net, k, s.factored ? s.row_is_a : 0, j);
      if (!s.factored) w += weight_of(s, net, k, 1, j);
      for (long x = 0; x < columns; x++) known.column[j * columns + x] += w * along[k * columns + x];
    }
  known.row.resize(rows * s.hidden);
  for (long r = 0; r < rows; r++) std::copy(bias.begin(), bias.end(), known.row.begin() + r * s.hidden);
  if (s.factored) {
    const std::vector<float> across = shared(s, over_b, rows);
    for (int k = 0; k < SHARED; k++)
      for (int j = 0; j < s.hidden; j++) {
        const float w = weight_of(s, net, k, !s.row_is_a, j);
        for (long r = 0; r < rows; r++) known.row[r * s.hidden + j] += w * across[k * rows + r];
      }
  }
  return known;
}

// The dense features of n entries of a row, in the order of Features.dense.
static inline void features_of(const Spec &s, const Known &known, const float *grad, const float *param,
                               const State &now, long r, long x, long n, vec *f) {
  const long at = r * s.b + x, o = r / s.a;
  const vec by = all(known.scale), g = load(grad + at, n) * by, v = load(now.square + at, n) * by * by;
  const vec m[KINDS] = {load(now.mean[0] + at, n) * by, load(now.mean[1] + at, n) * by, load(now.mean[2] + at, n) * by};
  const vec root = root_inverse(v + all(s.second_eps));
  int k = 0;
  f[k++] = g;
  if (s.clipped) f[k++] = between(g, -0.1f, 0.1f);
  f[k++] = load(param + at, n);
  for (int j = 0; j < KINDS; j++) f[k++] = m[j];
  f[k++] = v;
  for (int j = 0; j < KINDS; j++) f[k++] = m[j] * root;
  f[k++] = root;
  vec row[KINDS];
  for (int j = 0; j < KINDS; j++) {
    row[j] = all(known.of_a[j * s.others * s.a + r]);
    f[k++] = g * row[j] * load(known.grad_b.data() + (j * s.others + o) * s.b + x, n);
  }
  if (s.clipped) f[k++] = g * root;
  for (int j = 0; j < KINDS; j++) f[k++] = m[j] * row[j] * load(known.mean_b.data() + (j * s.others + o) * s.b + x, n);
  for (int j = 0; n < LANES && j < k; j++)
    for (long l = n; l < LANES; l++) f[j][l] = 0.0f;
}

static void fold(const Spec &s, Known &known, const float *grad, const float *param, const State &now, const Net &net) {
  const long rows = s.others * s.a;
  const int dense = s.dense();
  std::vector<double> sums(s.threads * MOST_DENSE, 0.0);
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1) schedule(static)
  for (int p = 0; p < s.threads; p++)
    for (long r = rows * p / s.threads; r < rows * (p + 1) / s.threads; r++) {
      vec f[MOST_DENSE], sum[MOST_DENSE] = {};
      for (long x = 0; x < s.b; x += LANES) {
        features_of(s, known, grad, param, now, r, x, std::min<long>(s.b - x, LANES), f);
        for (int k = 0; k < dense; k++) sum[k] += f[k] * f[k];
      }
      for (int k = 0; k < dense; k++) {
        double whole = 0;
        for (int l = 0; l < LANES; l++) whole += sum[k][l];
        sums[p * MOST_DENSE + k] += whole;
      }
    }
  known.folded.resize(dense * s.hidden);
  for (int k = 0; k < dense; k++) {
    double sum = 0;
    for (int p = 0; p < s.threads; p++) sum += sums[p * MOST_DENSE + k];
    const float by = 1 / std::sqrt((float)(sum / s.size()) + s.normaliser_eps);
    for (int j = 0; j < s.hidden; j++) known.folded[k * s.hidden + j] = net.w0[(long)s.dense_at(k) * s.hidden + j] * by;
  }
}

// out[j] = relu(out[j] + sum over i of weights[i][j] * values[i]) for PAIR vectors each; j in blocks, so that sums stay
// in registers and there are enough of them to hide how long a product takes.
static inline void layer(const float *weights, int inputs, int hidden, const vec (*values)[PAIR], vec (*out)[PAIR]) {
  for (int j = 0; j < hidden; j += BLOCK) {
    vec low[BLOCK], high[BLOCK];
    for (int q = 0; q < BLOCK; q++) low[q] = out[j + q][0], high[q] = out[j + q][1];
    for (int i = 0; i < inputs; i++) {
      const float *w = weights + (long)i * hidden + j;
      const vec first = values[i][0], second = values[i][1];
      for (int q = 0; q < BLOCK; q++) {
        const vec by = all(w[q]);
        low[q] += by * first, high[q] += by * second;
      }
    }
    for (int q = 0; q < BLOCK; q++) out[j + q][0] = positive(low[q]), out[j + q][1] = positive(high[q]);
  }
}

static void row_of_steps(const Spec &s, const Known &known, const float *grad, const float *param, const State &now,
                         const Net &net, long r, float rate, float *out) {
  const int dense = s.dense();
  const long o = r / s.a;
  vec f[MOST_DENSE], given[MOST_DENSE][PAIR], one[MOST_HIDDEN][PAIR], two[MOST_HIDDEN][PAIR];
  for (long x = 0; x < s.b; x += PAIR * LANES) {
    for (int p = 0; p < PAIR; p++) {
      const long at = x + p * LANES, n = std::max<long>(0, std::min<long>(s.b - at, LANES));
      features_of(s, known, grad, param, now, r, n ? at : x, n, f);
      for (int k = 0; k < dense; k++) given[k][p] = f[k];
      const float *column = known.column.data() + o * s.b + (n ? at : x);
      for (int j = 0; j < s.hidden; j++) {
        one[j][p] = load(column + j * s.others * s.b, n) + all(known.row[r * s.hidden + j]);
        two[j][p] = all(net.b1[j]);
      }
    }
    layer(known.folded.data(), dense, s.hidden, given, one);
    layer(net.w1, s.hidden, s.hidden, one, two);
    vec said[2][PAIR];
    for (int y = 0; y < 2; y++)
      for (int p = 0; p < PAIR; p++) {
        vec sum = all(net.b2[y]);
        for (int j = 0; j < s.hidden; j++) sum += net.w2[j * s.outputs + y] * two[j][p];
        said[y][p] = sum;
      }
    vec step[PAIR];
    for (int p = 0; p < PAIR; p++) step[p] = said[0][p] * exponential(said[1][p] * s.magnitude) * rate;
    std::memcpy(out + r * s.b + x, step, std::min<long>(s.b - x, PAIR * LANES) * sizeof(float));
  }
}

// Everything is float32 and contiguous; tensors are (batch, others, a, b). `nets` is 1 or the batch: networks, decays
// (nets, 7). `old` and `now` name mean 0 to 2, square, over_b, over_a, and may be the same. `weights` names w0 to b2.
// `out` is rate * d * exp(magnitude * m).
extern "C" void learned_step(long batch, long nets, const long *sizes, const int *kind, const float *numbers,
                             const float *time, const float *grad, const float *param, float *const *old,
                             float *const *now, const float *const *weights, const float *decays, const float *steps,
                             const float *rates, float *out) {
  const Spec s = {sizes[0], sizes[1], sizes[2], kind[0], kind[1], kind[2], kind[3], kind[4], kind[5],
                  kind[6], kind[7], numbers[0], numbers[1], numbers[2], time};
  const long e = s.size(), rows = s.others * s.a, columns = s.others * s.b, inputs = 28 + 2 * s.clipped + s.times;
  const long strides[6] = {e, e, e, e, s.factored ? KINDS * rows : 0, KINDS * columns};
  const long widths[6] = {inputs * s.hidden, s.hidden, (long)s.hidden * s.hidden, s.hidden,
                          (long)s.hidden * s.outputs, s.outputs};
  for (long n = 0; n < batch; n++) {
    const long net = nets == 1 ? 0 : n;
    float *from[6], *to[6];
    const float *held[6];
    for (int i = 0; i < 6; i++)
      from[i] = old[i] + n * strides[i], to[i] = now[i] + n * strides[i], held[i] = weights[i] + net * widths[i];
    const State before = {{from[0], from[1], from[2]}, from[3], from[4], from[5]};
    const State after = {{to[0], to[1], to[2]}, to[3], to[4], to[5]};
    const Net w = {held[0], held[1], held[2], held[3], held[4], held[5]};
    const float *g = grad + n * e, *p = param + n * e;
    accumulate(s, g, before, after, decays + net * 7);
    Known known = statistics(s, after, w, steps[n]);
    fold(s, known, g, p, after, w);
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1) schedule(static)
    for (long r = 0; r < rows; r++) row_of_steps(s, known, g, p, after, w, r, rates[n], out + n * e);
  }
}
