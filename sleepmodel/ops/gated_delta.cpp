// The gated delta rule on a CPU in float32, forward and backward: `chunkwise` of gated_delta.py, with all that a chunk
// of one (batch, head) needs in cache. G = cumsum(g), e = exp(G), f = exp(G_C - G), D_ij = exp(G_i - G_j) for i >= j,
// else 0; KD = (k k^T) * D below the diagonal, P = (q k^T) * D:
//   W = v - e k S - KD (b W), the errors;   U = b W, the writes;   o = P U + e q S;   S' = e_C S + k^T (f U).
// Called from gated_delta_cpu.py.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int LANES = 8, ROWS = 4;
#else
#error "slower than the torch form without AVX2"
#endif
constexpr int COLUMNS = 2;  // a tile of a product is ROWS x COLUMNS vectors: its sums stay in registers
typedef float Vec __attribute__((vector_size(4 * LANES), may_alias));
typedef int Lanes __attribute__((vector_size(4 * LANES)));

int padded(int n) { return (n + LANES - 1) / LANES * LANES; }
int smaller(int a, int b) { return a < b ? a : b; }

// A tensor [B, T, H, D], unit stride in D. The state [B, H, K, V] is one with T = K.
struct View {
    float* data;
    int64_t batch, token, head;
    float* at(int b, int t, int h) const { return data + b * batch + t * token + h * head; }
};

// The order of a call's tensors; what is not there has no data.
enum { Q_IN, K_IN, V_IN, G_IN, B_IN, S_IN, W_OUT, STARTS, O_OUT, S_OUT };
enum { DO_IN = O_OUT, DS_IN, DQ_OUT, DK_OUT, DV_OUT, DG_OUT, DB_OUT, DS_OUT };

struct Sizes {
    int64_t batch, heads, tokens, key, value, chunk, threads;
};

// Scratch: rows of whole vectors. Values past the true width never reach a true result.
struct Matrix {
    float* p;
    int stride;
    float* row(int i) const { return p + i * stride; }
    Vec& vec(int i, int j) const { return *reinterpret_cast<Vec*>(p + i * stride + j); }
    Matrix from(int i) const { return {row(i), stride}; }
};

// The left factor of a product, read value by value: its transpose costs nothing.
struct Left {
    const float* p;
    int row, column;
    Left(const float* p, int row, int column) : p(p), row(row), column(column) {}
    Left(Matrix m) : Left(m.p, m.stride, 1) {}
    Left from(int i, int j) const { return {p + i * row + j * column, row, column}; }
    Left transposed() const { return {p, column, row}; }
};

enum Sum { NEW, ADD };
enum Shape { FULL, LOWER, UPPER };  // of the left factor: where it is zero, outside of tiles, nothing is multiplied

template <int M, int N>
inline void tile(Matrix c, Left a, Matrix b, int i, int j, int first, int last, Sum sum) {
    Vec s[M][N];
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) s[m][n] = sum == ADD ? c.vec(i + m, j + n * LANES) : Vec{};
    for (int l = first; l < last; l++)
        for (int m = 0; m < M; m++)
            for (int n = 0; n < N; n++) s[m][n] += a.p[(i + m) * a.row + l * a.column] * b.vec(l, j + n * LANES);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) c.vec(i + m, j + n * LANES) = s[m][n];
}

template <int M, int N>
inline int tiles(Matrix c, Left a, Matrix b, int i, int rows, int j, int inner, Sum sum, Shape shape) {
    for (; i + M <= rows; i += M)
        tile<M, N>(c, a, b, i, j, shape == UPPER ? i : 0, shape == LOWER ? smaller(i + M, inner) : inner, sum);
    return i;
}

template <int N>
inline void panel(Matrix c, Left a, Matrix b, int rows, int j, int inner, Sum sum, Shape shape) {
    int i = tiles<ROWS, N>(c, a, b, 0, rows, j, inner, sum, shape);
    i = tiles<4, N>(c, a, b, i, rows, j, inner, sum, shape);
    tiles<1, N>(c, a, b, i, rows, j, inner, sum, shape);
}

// c (+)= a b: [rows, inner] x [inner, columns].
void product(Matrix c, Left a, Matrix b, int rows, int inner, int columns, Sum sum, Shape shape = FULL) {
    int j = 0;
    for (; j + COLUMNS * LANES <= padded(columns); j += COLUMNS * LANES)
        panel<COLUMNS>(c, a, b, rows, j, inner, sum, shape);
    for (; j < columns; j += LANES) panel<1>(c, a, b, rows, j, inner, sum, shape);
}

// x = (I - a)^-1 x, in place, where a is strictly lower; its diagonal and above are not read.
void solve(Matrix x, Left a, int rows, int columns) {
    for (int i = 0; i < rows; i += ROWS) {
        int block = smaller(ROWS, rows - i);
        if (i) product(x.from(i), a.from(i, 0), x, block, i, columns, ADD);
        for (int r = 1; r < block; r++) product(x.from(i + r), a.from(i + r, i), x.from(i), 1, r, columns, ADD);
    }
}

// The same for a strictly upper a: a lower one, read from the end.
void solve_upper(Matrix x, Left a, int rows, int columns) {
    Left end = a.from(rows - 1, rows - 1);
    solve({x.row(rows - 1), -x.stride}, {end.p, -end.row, -end.column}, rows, columns);
}

// c = a^T by blocks of LANES x LANES, so c is written, and a read, up to whole blocks.
void transpose(Matrix c, Matrix a, int rows, int columns) {
    Lanes low{};
    for (int l = 0; l < LANES; l++) low[l] = l / 2 + l % 2 * LANES;
    Lanes high = low + LANES / 2;
    for (int i = 0; i < rows; i += LANES)
        for (int j = 0; j < columns; j += LANES) {
            Vec s[LANES], t[LANES];
            for (int r = 0; r < LANES; r++) s[r] = a.vec(i + r, j);
            // merging the block's halves value by value rotates the bits of each place: half a turn is the transpose
            for (int turn = 1; turn < LANES; turn *= 2) {
                for (int r = 0; r < LANES / 2; r++) {
                    t[2 * r] = __builtin_shuffle(s[r], s[r + LANES / 2], low);
                    t[2 * r + 1] = __builtin_shuffle(s[r], s[r + LANES / 2], high);
                }
                for (int r = 0; r < LANES; r++) s[r] = t[r];
            }
            for (int r = 0; r < LANES; r++) c.vec(j + r, i) = s[r];
        }
}

// c = a with row i times factor * scale[i]; scale may be null. c may be a.
void scaled(Matrix c, Matrix a, const float* scale, float factor, int rows, int columns) {
    for (int i = 0; i < rows; i++) {
        float by = scale ? factor * scale[i] : factor;
        for (int j = 0; j < columns; j += LANES) c.vec(i, j) = a.vec(i, j) * by;
    }
}

void multiplied(Matrix c, Matrix a, int rows, int columns) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += LANES) c.vec(i, j) *= a.vec(i, j);
}

float dot(Matrix a, Matrix b, int i, int columns) {
    Vec s{};
    for (int j = 0; j < columns; j += LANES) s += a.vec(i, j) * b.vec(i, j);
    float sum = 0;
    for (int l = 0; l < LANES; l++) sum += s[l];
    return sum;
}

// A tensor that is not there is zero.
void load(Matrix c, View x, int b, int t, int h, int rows, int columns, float factor = 1) {
    if (!x.data) std::memset(c.p, 0, rows * c.stride * sizeof(float));
    for (int i = 0; x.data && i < rows; i++) {
        const float* from = x.at(b, t + i, h);
        for (int j = 0; j < columns; j++) c.row(i)[j] = factor * from[j];
        for (int j = columns; j < padded(columns); j++) c.row(i)[j] = 0;
    }
}

void store(View x, Matrix c, int b, int t, int h, int rows, int columns, float factor = 1) {
    for (int i = 0; i < rows; i++) {
        float* to = x.at(b, t + i, h);
        for (int j = 0; j < columns; j++) to[j] = factor * c.row(i)[j];
    }
}

// One thread's buffers, named as the formulas above; C, K and V are padded.
struct Scratch {
    const int C, K, V;
    float *const memory, *next = memory;
    Matrix k = take(C, K), q = take(C, K), dq = take(C, K), dk = take(C, K), row = take(C, K);
    Matrix W = take(C, V), U = take(C, V), x = take(C, V), y = take(C, V), kT = take(K, C), UT = take(V, C);
    Matrix KD = take(C, C), P = take(C, C), D = take(C, C), dA = take(C, C);
    Matrix S = take(K, V), ST = take(V, K), dS = take(K, V), dST = take(V, K);
    float *b = take(1, C).p, *e = take(1, C).p, *f = take(1, C).p, *dG = take(1, C).p;

    explicit Scratch(const Sizes& n)
        : C(padded(n.chunk)), K(padded(n.key)), V(padded(n.value)),
          memory(zeros(C * (6 * K + 5 * V + 4 * C + 4) + 4 * K * V)) {}
    Scratch(const Scratch&) = delete;
    ~Scratch() { std::free(memory); }

    Matrix take(int rows, int columns) {
        next += rows * columns;
        return {next - rows * columns, columns};
    }
    // zero, because transposes also read rows that are never written
    static float* zeros(size_t n) {
        void* p = std::aligned_alloc(sizeof(Vec), n * sizeof(float));
        return static_cast<float*>(std::memset(p, 0, n * sizeof(float)));
    }
};

// What both directions need of a chunk of n tokens: k, b, e, f, D and KD.
void prepare(Scratch& s, const View* in, int n, int key, int batch, int t, int h) {
    load(s.k, in[K_IN], batch, t, h, n, key);
    for (int i = 0; i < n; i++) {
        // products of decays: no difference of sums to overflow, and one exponential a token
        float alpha = std::exp(*in[G_IN].at(batch, t + i, h));
        s.b[i] = *in[B_IN].at(batch, t + i, h);
        s.e[i] = i ? s.e[i - 1] * alpha : alpha;
        for (int j = 0; j < s.C; j += LANES) s.D.vec(i, j) = i ? s.D.vec(i - 1, j) * alpha : Vec{};
        s.D.row(i)[i] = 1;
    }
    std::memcpy(s.f, s.D.row(n - 1), n * sizeof(float));
    transpose(s.kT, s.k, n, key);
    product(s.KD, s.k, s.kT, n, key, n, NEW);
    multiplied(s.KD, s.D, n, n);
}

void forward_one(Scratch& s, const Sizes& z, const View* in, int batch, int h) {
    const int K = z.key, V = z.value;
    const float scale = 1 / std::sqrt(float(K));
    load(s.S, in[S_IN], batch, 0, h, K, V);
    for (int t = 0, n; t < z.tokens; t += n) {
        n = smaller(z.chunk, z.tokens - t);
        prepare(s, in, n, K, batch, t, h);
        load(s.W, in[V_IN], batch, t, h, n, V);
        scaled(s.row, s.k, s.e, -1, n, K);
        product(s.W, s.row, s.S, n, K, V, ADD);
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) s.KD.row(i)[j] *= -s.b[j];
        solve(s.W, s.KD, n, V);
        if (in[W_OUT].data) store(in[W_OUT], s.W, batch, t, h, n, V);
        scaled(s.U, s.W, s.b, 1, n, V);
        if (in[Q_IN].data) {
            load(s.q, in[Q_IN], batch, t, h, n, K, scale);
            product(s.P, s.q, s.kT, n, K, n, NEW);
            multiplied(s.P, s.D, n, n);
            product(s.x, s.P, s.U, n, n, V, NEW, LOWER);
            scaled(s.q, s.q, s.e, 1, n, K);
            product(s.x, s.q, s.S, n, K, V, ADD);
            store(in[O_OUT], s.x, batch, t, h, n, V);
        }
        scaled(s.U, s.U, s.f, 1, n, V);
        scaled(s.S, s.S, nullptr, s.e[n - 1], K, V);
        product(s.S, Left(s.k).transposed(), s.U, K, n, V, ADD);
        bool last = t + n == z.tokens;
        if (last || in[STARTS].data)
            store(last ? in[S_OUT] : in[STARTS], s.S, batch, last ? 0 : t / z.chunk * K, h, K, V);
    }
}

void backward_one(Scratch& s, const Sizes& z, const View* in, int batch, int h) {
    const int K = z.key, V = z.value;
    const float scale = 1 / std::sqrt(float(K));
    const bool reads = in[DO_IN].data;
    load(s.dS, in[DS_IN], batch, 0, h, K, V);
    for (int t = (z.tokens - 1) / z.chunk * z.chunk; t >= 0; t -= z.chunk) {
        const int n = smaller(z.chunk, z.tokens - t);
        prepare(s, in, n, K, batch, t, h);
        load(s.W, in[W_OUT], batch, t, h, n, V);
        if (t) load(s.S, in[STARTS], batch, (t / z.chunk - 1) * K, h, K, V);
        else load(s.S, in[S_IN], batch, 0, h, K, V);
        scaled(s.U, s.W, s.b, 1, n, V);
        transpose(s.UT, s.U, n, V);
        transpose(s.ST, s.S, K, V);
        transpose(s.dST, s.dS, K, V);

        // S' = e_C S + k^T (f U) goes with exp(G_C), hence <S', dS'> in its gradient. The rest of dG is as in `_Chunk`:
        // q dq + k row - k dk, where row is the gradient of k as it reads, and dk as it writes
        scaled(s.U, s.U, s.f, 1, n, V);
        product(s.dk, s.U, s.dST, n, V, K, NEW);
        float after = 0;  // the sum of dG from here to the chunk's end
        for (int i = 0; i < K; i++) after += s.e[n - 1] * dot(s.S, s.dS, i, V);
        for (int i = 0; i < n; i++) after += dot(s.k, s.dk, i, K);
        product(s.x, s.k, s.dS, n, K, V, NEW);
        scaled(s.x, s.x, s.f, 1, n, V);  // dU
        scaled(s.dS, s.dS, nullptr, s.e[n - 1], K, V);
        for (int i = 0; i < n; i++) s.dG[i] = 0;

        if (reads) {  // o = P U + e q S
            load(s.q, in[Q_IN], batch, t, h, n, K, scale);
            load(s.y, in[DO_IN], batch, t, h, n, V);
            product(s.P, s.q, s.kT, n, K, n, NEW);
            multiplied(s.P, s.D, n, n);
            product(s.x, Left(s.P).transposed(), s.y, n, n, V, ADD, UPPER);
            product(s.dA, s.y, s.UT, n, V, n, NEW);
            multiplied(s.dA, s.D, n, n);
            scaled(s.y, s.y, s.e, 1, n, V);
            product(s.dq, s.y, s.ST, n, V, K, NEW);
            product(s.dq, s.dA, s.k, n, n, K, ADD, LOWER);
            product(s.dk, Left(s.dA).transposed(), s.q, n, n, K, ADD, UPPER);
            product(s.dS, Left(s.q).transposed(), s.y, K, n, V, ADD);
            for (int i = 0; i < n; i++) s.dG[i] = dot(s.q, s.dq, i, K);
            store(in[DQ_OUT], s.dq, batch, t, h, n, K, scale);
        }

        // W + KD (b W) = v - e k S, so with dW = b dU: b dR = dv solves (I + KD b)^T dv = dW
        scaled(s.KD, s.KD, s.b, -1, n, n);
        solve_upper(s.x, Left(s.KD).transposed(), n, V);
        for (int i = 0; i < n; i++) *in[DB_OUT].at(batch, t + i, h) = dot(s.x, s.W, i, V);
        scaled(s.x, s.x, s.b, -1, n, V);
        store(in[DV_OUT], s.x, batch, t, h, n, V, -1);
        product(s.dA, s.x, s.UT, n, V, n, NEW);
        multiplied(s.dA, s.D, n, n);
        for (int i = 0; i < n; i++) s.dA.row(i)[i] = 0;
        scaled(s.x, s.x, s.e, 1, n, V);
        product(s.row, s.x, s.ST, n, V, K, NEW);
        product(s.row, s.dA, s.k, n, n, K, ADD, LOWER);
        product(s.dk, Left(s.dA).transposed(), s.k, n, n, K, ADD, UPPER);
        product(s.dS, Left(s.k).transposed(), s.x, K, n, V, ADD);
        for (int i = n - 1; i >= 0; i--) {
            after += s.dG[i] + dot(s.k, s.row, i, K) - dot(s.k, s.dk, i, K);
            *in[DG_OUT].at(batch, t + i, h) = after;
            for (int j = 0; j < s.K; j += LANES) s.dk.vec(i, j) += s.row.vec(i, j);
        }
        store(in[DK_OUT], s.dk, batch, t, h, n, K);
    }
    store(in[DS_OUT], s.dS, batch, 0, h, K, V);
}

template <void (*one)(Scratch&, const Sizes&, const View*, int, int)>
void all(const Sizes& z, const View* tensors) {
#pragma omp parallel num_threads(z.threads)
    {
        Scratch scratch(z);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < z.batch * z.heads; i++) one(scratch, z, tensors, i / z.heads, i % z.heads);
    }
}
}  // namespace

extern "C" void gated_delta_forward(const Sizes* z, const View* tensors) { all<forward_one>(*z, tensors); }
extern "C" void gated_delta_backward(const Sizes* z, const View* tensors) { all<backward_one>(*z, tensors); }
