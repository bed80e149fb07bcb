import plur from "plur";

const planks: number = Number(process.argv[2]);
if (!Number.isInteger(planks) || planks <= 0) {
  console.error("usage: strakes PLANKS");
  process.exit(2);
}
console.log(`node app: ${planks} ${plur("plank", planks)} a side, ${2 * planks} strakes`);
