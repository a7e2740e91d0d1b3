/* ---- activations ---- */

enum {
    NONE, RELU, CLIP, LEAKY_RELU, HARD_SIGMOID, HARD_SWISH, SIGMOID, SILU, TANH, ELU, ERF, EXP, SQRT,
    ABS, NEGATIVE, RECIPROCAL, LOG, CEIL, FLOOR, SQUARE, MISH
};

struct activation {
    int kind;
    float low, high; /* CLIP's limits; LEAKY_RELU's and ELU's factor; HARD_SIGMOID's slope and offset */
};

/* exp by powers of two and a polynomial (Cephes), to 2e-7 of the result; a NaN stays one */
INLINE vector exponential(vector given)
{
    const vector x = smallest(largest(given, all(-87)), all(88));
    vector shifted = x * all(1.44269504f) + all(12582912.f), whole = shifted - all(12582912.f);
    vector r = x - whole * all(.693359375f) + whole * all(2.12194440e-4f);
    vector p = all(1.9875691500e-4f);
    p = p * r + all(1.3981999507e-3f);
    p = p * r + all(8.3334519073e-3f);
    p = p * r + all(4.1665795894e-2f);
    p = p * r + all(1.6666665459e-1f);
    p = p * r + all(5.0000001201e-1f);
    p = p * r * r + r + all(1);
    return pick(given == given, (vector)((lanes)p + ((lanes)shifted << 23)), given);
}

INLINE vector sigmoid(vector x) { return all(1) / (all(1) + exponential(-x)); }

/* x tanh(log(1 + e^x)), without an overflow */
INLINE vector mish(vector x)
{
    vector e = exponential(smallest(x, all(20))), n = e * e + e + e;
    return x * n / (n + all(2));
}

#define EACH_LANE(x, result)                                                                                        \
    for (int lane = 0; lane < LANES; lane++) {                                                                      \
        const float v = (x)[lane];                                                                                  \
        (x)[lane] = (result);                                                                                       \
    }

static __attribute__((noinline)) vector rarely_activated(vector x, const struct activation *how)
{
    switch (how->kind) {
    case LEAKY_RELU: return pick(x > all(0), x, x * all(how->low));
    case SIGMOID: return sigmoid(x);
    case SILU: return x * sigmoid(x);
    case TANH: return all(2) * sigmoid(x + x) - all(1);
    case ELU: return pick(x > all(0), x, all(how->low) * (exponential(x) - all(1)));
    case EXP: return exponential(x);
    case ABS: return largest(x, -x);
    case NEGATIVE: return -x;
    case RECIPROCAL: return all(1) / x;
    case SQUARE: return x * x;
    case MISH: return mish(x);
    case ERF: EACH_LANE(x, erff(v)); return x;
    case SQRT: EACH_LANE(x, sqrtf(v)); return x;
    case LOG: EACH_LANE(x, logf(v)); return x;
    case CEIL: EACH_LANE(x, ceilf(v)); return x;
    case FLOOR: EACH_LANE(x, floorf(v)); return x;
    default: return x;
    }
}

/* a NaN stays one: comparisons with it are false, so it is what is kept */
INLINE vector relu(vector x) { return pick(x < all(0), all(0), x); }
INLINE vector clipped(vector x, float low, float high)
{
    x = pick(x < all(low), all(low), x);
    return pick(x > all(high), all(high), x);
}
INLINE vector hard_sigmoid(vector x, const struct activation *how)
{
    return clipped(x * all(how->low) + all(how->high), 0, 1);
}

INLINE vector activated(vector x, const struct activation *how)
{
    switch (how->kind) {
    case NONE: return x;
    case RELU: return relu(x);
    case CLIP: return clipped(x, how->low, how->high);
    case HARD_SIGMOID: return hard_sigmoid(x, how);
    case HARD_SWISH: return x * hard_sigmoid(x, how);
    default: return rarely_activated(x, how);
    }
}

/* The same for many, chosen once. */
static __attribute__((noinline)) void activate(vector *x, int count, const struct activation *how)
{
    if (how->kind == CLIP)
        for (int i = 0; i < count; i++) x[i] = clipped(x[i], how->low, how->high);
    else if (how->kind == HARD_SWISH)
        for (int i = 0; i < count; i++) x[i] = x[i] * hard_sigmoid(x[i], how);
    else
        for (int i = 0; i < count; i++) x[i] = activated(x[i], how);
}

INLINE part relu_of_part(part x)
{
    return (part)(~(x < all_part(0)) & (part_bits)x);
}

/* Sums in registers: what is usual happens there, the rest in memory. `columns` parts are whole vectors. */
#define ACTIVATE(sum, rows, columns, how)                                                                           \
    if ((how)->kind == RELU) {                                                                                      \
        UNROLL for (int r = 0; r < (rows); r++)                                                                     \
            UNROLL for (int c = 0; c < (columns); c++) sum[r][c] = relu_of_part(sum[r][c]);                         \
    } else if ((how)->kind != NONE) {                                                                               \
        union { part parts[24 * PARTS]; vector whole[24]; } kept;                                                   \
        UNROLL for (int r = 0; r < (rows); r++)                                                                     \
            UNROLL for (int c = 0; c < (columns); c++) kept.parts[r * (columns) + c] = sum[r][c];                   \
        activate(kept.whole, (rows) * (columns) / PARTS, how);                                                      \
        UNROLL for (int r = 0; r < (rows); r++)                                                                     \
            UNROLL for (int c = 0; c < (columns); c++) sum[r][c] = kept.parts[r * (columns) + c];                   \
    }

/* ---- two values ---- */

enum { ADD, SUBTRACT, MULTIPLY, DIVIDE, MAXIMUM, MINIMUM, FIRST, SCALE_AND_SHIFT };

INLINE vector combined(int kind, vector a, vector b)
{
    switch (kind) {
    case ADD: return a + b;
    case SUBTRACT: return a - b;
    case MULTIPLY: return a * b;
    case DIVIDE: return a / b;
    case MAXIMUM: return pick((a < b) | (b != b), b, a);
    case MINIMUM: return pick((a > b) | (b != b), b, a);
    default: return a;
    }
}
