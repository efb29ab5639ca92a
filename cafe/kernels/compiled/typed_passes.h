/* The passes on one type of numbers; passes.c defines NUMBER, WIDEN, NARROW and NAMED, and says what each computes. */

ANY_PROCESSOR static int NAMED(relu_rows)(const void *pass, ptrdiff_t first, ptrdiff_t last) {
  const Activation *a = pass;
  for (ptrdiff_t i = first; i < last; i++) {
    ptrdiff_t matrix = i / a->rows, row = i % a->rows;
    const NUMBER *in = (const NUMBER *)a->in + matrix * a->in_matrix + row * a->in_row;
    NUMBER *out = (NUMBER *)a->out + matrix * a->out_matrix + row * a->out_row;
#pragma omp simd
    for (ptrdiff_t j = 0; j < a->width; j++) {
      float value = WIDEN(in[j]);
      out[j] = value <= 0 ? 0 : in[j]; /* NaN stays NaN */
    }
  }
  return NO_FAULT;
}

EXPORTED int NAMED(relu)(const Activation *a) {
  return run(NAMED(relu_rows), a, a->matrices * a->rows, a->width);
}

ANY_PROCESSOR static int NAMED(zero_where_zero_rows)(const void *pass, ptrdiff_t first, ptrdiff_t last) {
  const Activation *a = pass;
  for (ptrdiff_t i = first; i < last; i++) {
    ptrdiff_t matrix = i / a->rows, row = i % a->rows;
    const NUMBER *in = (const NUMBER *)a->in + matrix * a->in_matrix + row * a->in_row;
    const NUMBER *activation = (const NUMBER *)a->activation + matrix * a->activation_matrix + row * a->activation_row;
    NUMBER *out = (NUMBER *)a->out + matrix * a->out_matrix + row * a->out_row;
#pragma omp simd
    for (ptrdiff_t j = 0; j < a->width; j++)
      out[j] = WIDEN(activation[j]) == 0 ? 0 : in[j];
  }
  return NO_FAULT;
}

EXPORTED int NAMED(zero_where_zero)(const Activation *a) {
  return run(NAMED(zero_where_zero_rows), a, a->matrices * a->rows, a->width);
}

ANY_PROCESSOR static int NAMED(blend_rows)(const void *pass, ptrdiff_t first, ptrdiff_t last) {
  const Blend *a = pass;
  ptrdiff_t d = a->width;
  for (ptrdiff_t i = first; i < last; i++) {
    const NUMBER *x = (const NUMBER *)a->x + (a->x_shared ? i % a->rows : i) * d;
    NUMBER *adapted = (NUMBER *)a->adapted + i * d, *q = (NUMBER *)a->q + i * d;
    float ratio = a->ratio[a->ratio_per_row ? i : i / a->rows], rest = 1 - ratio, square = 0;
    if (a->released) {
#pragma omp simd
      for (ptrdiff_t j = 0; j < d; j++)
        adapted[j] = WIDEN(adapted[j]) <= 0 ? 0 : adapted[j];
    }
#pragma omp simd reduction(+ : square)
    for (ptrdiff_t j = 0; j < d; j++) {
      NUMBER blended = NARROW(ratio * WIDEN(adapted[j]) + rest * WIDEN(x[j]));
      q[j] = blended;
      square += WIDEN(blended) * WIDEN(blended);
    }
    if (a->r)
      a->r[i] = square == 0 ? 0 : 1 / sqrtf(square);
  }
  return NO_FAULT;
}

EXPORTED int NAMED(blend)(const Blend *a) {
  return run(NAMED(blend_rows), a, a->configurations * a->rows, 2 * a->width);
}

/* Writes e^(L - largest) of some classes, and adds them to a sum, and their products with L - largest to another. */
INLINE void NAMED(add_powers)(const NUMBER *row, float *powers, ptrdiff_t first, ptrdiff_t last, float factor,
                              float largest, float *sum, float *sum_of_products) {
  float total = 0, along = 0;
#pragma omp simd reduction(+ : total, along)
  for (ptrdiff_t j = first; j < last; j++) {
    float logit = factor * WIDEN(row[j]) - largest, power = exponential(logit);
    powers[j] = power;
    total += power;
    along += power * logit;
  }
  *sum += total;
  *sum_of_products += along;
}

ANY_PROCESSOR static int NAMED(errors_rows)(const void *pass, ptrdiff_t first, ptrdiff_t last) {
  const Errors *a = pass;
  ptrdiff_t c = a->classes, d = a->width;
  float *powers = malloc((size_t)c * sizeof *powers); /* e^(L - the largest L) of a row */
  if (!powers)
    return NO_MEMORY;
  for (ptrdiff_t i = first; i < last; i++) {
    NUMBER *row = (NUMBER *)a->cosines + i * c;
    ptrdiff_t own = i / a->rows, label = a->labels[a->index[own * a->index_of_matrix + i % a->rows]];
    if (label < 0 || label >= c) {
      free(powers);
      return NO_SUCH_ROW;
    }
    float scale = a->scale[own], r = a->r[i], factor = scale * r, largest = -INFINITY, others = 0, along = 0;
#pragma omp simd reduction(max : largest)
    for (ptrdiff_t j = 0; j < c; j++) {
      float logit = factor * WIDEN(row[j]);
      largest = logit > largest ? logit : largest;
    }
    NAMED(add_powers)(row, powers, 0, label, factor, largest, &others, &along);
    NAMED(add_powers)(row, powers, label + 1, c, factor, largest, &others, &along);
    float logit = factor * WIDEN(row[label]) - largest, total = others + exponential(logit);
    float share = a->weight[own] * r, of_power = share * scale / total;
    if (a->losses)
      a->losses[i] = logf(total) - logit;
    powers[label] = -others;
#pragma omp simd
    for (ptrdiff_t j = 0; j < c; j++)
      row[j] = NARROW(of_power * powers[j]);
    if (!a->u)
      continue;
    along = (along - others * logit) / total * share * r;
    const NUMBER *q = (const NUMBER *)a->q + i * d;
    NUMBER *u = (NUMBER *)a->u + i * d;
#pragma omp simd
    for (ptrdiff_t j = 0; j < d; j++)
      u[j] = NARROW(along * WIDEN(q[j]));
  }
  free(powers);
  return NO_FAULT;
}

EXPORTED int NAMED(errors)(const Errors *a) {
  /* A power costs as much as four copies. */
  return run(NAMED(errors_rows), a, a->configurations * a->rows, 4 * a->classes + (a->u ? a->width : 0));
}

ANY_PROCESSOR static int NAMED(adamw_numbers)(const void *pass, ptrdiff_t first, ptrdiff_t last) {
  const Update *a = pass;
  const NUMBER *gradients = a->gradients;
  float *restrict parameters = a->parameters, *restrict firsts = a->first, *restrict seconds = a->second;
  bfloat16 *restrict narrow = a->narrow;
  float beta1 = a->beta1, beta2 = a->beta2, eps = a->eps, kept = 1 - a->rate * a->decay;
  float step = a->rate / a->correction1, root = 1 / sqrtf(a->correction2);
  ptrdiff_t end = last * UPDATED_TOGETHER < a->n ? last * UPDATED_TOGETHER : a->n;
#pragma omp simd
  for (ptrdiff_t i = first * UPDATED_TOGETHER; i < end; i++) {
    float gradient = WIDEN(gradients[i]);
    float moment = firsts[i] + (1 - beta1) * (gradient - firsts[i]);
    float square = beta2 * seconds[i] + (1 - beta2) * gradient * gradient;
    firsts[i] = moment;
    seconds[i] = square;
    parameters[i] = kept * parameters[i] - step * moment / (root * sqrtf(square) + eps);
    if (narrow)
      narrow[i] = narrow_bfloat16(parameters[i]);
  }
  return NO_FAULT;
}

EXPORTED int NAMED(adamw)(const Update *a) {
  return run(NAMED(adamw_numbers), a, (a->n + UPDATED_TOGETHER - 1) / UPDATED_TOGETHER, 4 * UPDATED_TOGETHER);
}

ANY_PROCESSOR static int NAMED(sgd_numbers)(const void *pass, ptrdiff_t first, ptrdiff_t last) {
  const Update *a = pass;
  const NUMBER *gradients = a->gradients;
  float *restrict parameters = a->parameters, *restrict velocities = a->first;
  bfloat16 *restrict narrow = a->narrow;
  float momentum = a->beta1, decay = a->decay, rate = a->rate;
  ptrdiff_t end = last * UPDATED_TOGETHER < a->n ? last * UPDATED_TOGETHER : a->n;
#pragma omp simd
  for (ptrdiff_t i = first * UPDATED_TOGETHER; i < end; i++) {
    float velocity = momentum * velocities[i] + WIDEN(gradients[i]) + decay * parameters[i];
    velocities[i] = velocity;
    parameters[i] -= rate * velocity;
    if (narrow)
      narrow[i] = narrow_bfloat16(parameters[i]);
  }
  return NO_FAULT;
}

EXPORTED int NAMED(sgd)(const Update *a) {
  return run(NAMED(sgd_numbers), a, (a->n + UPDATED_TOGETHER - 1) / UPDATED_TOGETHER, 4 * UPDATED_TOGETHER);
}
