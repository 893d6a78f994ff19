//! Aggregating functions as types: what is added, and what comes out.

use std::{borrow::Cow, marker::PhantomData};

use forebay_proto::{codec::Error, packed_list};

use crate::codec::{F64, I64, Stored, WriteAs};

/// A function of an aggregating state.
pub trait Aggregate: Send + Sync + 'static {
    /// What [`AggregatingState::get`](crate::AggregatingState::get) returns.
    type Output;

    /// Returns the codec of what is added, as it is registered.
    fn value_codec() -> Cow<'static, str>;

    /// Reads a result.
    fn read(result: &[u8]) -> Result<Self::Output, Error>;
}

/// What can be added to an aggregating state of this function.
pub trait AddTo<A> {
    /// Appends the operand.
    fn write_operand(&self, out: &mut Vec<u8>) -> Result<(), Error>;
}

/// The mean of `f64`.
#[derive(Debug)]
pub struct Avg;

/// The mean of `i64`, an `f64`.
#[derive(Debug)]
pub struct AvgI64;

/// How many different values were added, an estimate with a standard error of 1.6 %.
#[derive(Debug)]
pub struct CountDistinct<C>(PhantomData<fn() -> C>);

/// The largest values by their bytes, the largest first.
#[derive(Debug)]
pub struct TopK<C>(PhantomData<fn() -> C>);

/// Of pairs (by, value), the value with the smallest `by` by its bytes; the first of equals.
#[derive(Debug)]
pub struct MinBy<B, C>(PhantomData<fn() -> (B, C)>);

/// Of pairs (by, value), the value with the largest `by` by its bytes; the first of equals.
#[derive(Debug)]
pub struct MaxBy<B, C>(PhantomData<fn() -> (B, C)>);

/// Functions whose operand is one value.
macro_rules! of_values {
    ($([$($codec:ident)?] $function:ty: $operand:ty => $output:ty, $read:expr;)*) => {$(
        impl<$($codec: Stored)?> Aggregate for $function {
            type Output = $output;
            fn value_codec() -> Cow<'static, str> {
                <$operand>::name()
            }
            fn read(result: &[u8]) -> Result<$output, Error> {
                $read(result)
            }
        }

        impl<$($codec: Stored,)? T: WriteAs<$operand> + ?Sized> AddTo<$function> for T {
            fn write_operand(&self, out: &mut Vec<u8>) -> Result<(), Error> {
                self.write_as(out)
            }
        }
    )*};
}

of_values! {
    [] Avg: F64 => f64, F64::read;
    [] AvgI64: I64 => f64, F64::read;
    [C] CountDistinct<C>: C => i64, I64::read;
    [C] TopK<C>: C => Vec<C::Value>, |result| packed_list::iter(result).map(C::read).collect();
}

/// Functions whose operand is a pair.
macro_rules! of_pairs {
    ($($function:ident)*) => {$(
        impl<B: Stored, C: Stored> Aggregate for $function<B, C> {
            type Output = C::Value;
            fn value_codec() -> Cow<'static, str> {
                C::name()
            }
            fn read(result: &[u8]) -> Result<C::Value, Error> {
                C::read(result)
            }
        }

        impl<B: Stored, C: Stored, X: WriteAs<B>, Y: WriteAs<C>> AddTo<$function<B, C>> for (X, Y) {
            fn write_operand(&self, out: &mut Vec<u8>) -> Result<(), Error> {
                let mut part = Vec::new();
                self.0.write_as(&mut part)?;
                packed_list::push(out, &part);
                part.clear();
                self.1.write_as(&mut part)?;
                packed_list::push(out, &part);
                Ok(())
            }
        }
    )*};
}

of_pairs! { MinBy MaxBy }

#[cfg(test)]
mod tests {
    use forebay_proto::merge::MergeFunction;

    use super::*;
    use crate::codec::Utf8;

    fn result<A: Aggregate>(function: MergeFunction, operands: &[&dyn AddTo<A>]) -> A::Output {
        let mut accumulator = Vec::new();
        for operand in operands {
            let (mut bytes, mut out) = (Vec::new(), Vec::new());
            operand.write_operand(&mut bytes).unwrap();
            assert!(function.valid_operand(&bytes));
            function.fold(Some(&accumulator), &bytes, &mut out);
            accumulator = out;
        }
        A::read(&function.result(&accumulator).unwrap()).unwrap()
    }

    #[test]
    fn each_function_takes_its_operands_and_gives_its_result() {
        assert_eq!(result::<Avg>(MergeFunction::Avg, &[&1.0, &2.0]), 1.5);
        assert_eq!(result::<AvgI64>(MergeFunction::AvgI64, &[&1_i64, &2_i64]), 1.5);
        assert_eq!(result::<CountDistinct<Utf8>>(MergeFunction::CountDistinct, &[&"a", &"b", &"a"]), 2);
        let top = MergeFunction::top_k(2).unwrap();
        assert_eq!(result::<TopK<I64>>(top, &[&-3_i64, &7_i64, &5_i64]), [7, 5]);
        let fares: [&dyn AddTo<MinBy<I64, Utf8>>; 2] = [&(30_i64, "far"), &(-2_i64, "free")];
        assert_eq!(result::<MinBy<I64, Utf8>>(MergeFunction::MinBy, &fares), "free");
        assert_eq!(result::<MaxBy<F64, Utf8>>(MergeFunction::MaxBy, &[&(0.5, "a"), &(1.5, "b")]), "b");
    }
}
