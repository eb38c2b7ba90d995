// Called by golden.py: node golden.cjs PACKAGES FOLDER prints what the packages' models say as JSON.
const fs = require("fs");
const path = require("path");

const [packages, folder] = process.argv.slice(2);
const modules = path.join(packages, "node_modules");
const tf = require(path.join(modules, "@tensorflow/tfjs"));
const read = (name) => fs.readFileSync(path.join(folder, name));
const shapes = JSON.parse(read("shapes.json"));

async function nsfwjs() {
  const root = path.join(modules, "nsfwjs/dist/models/mobilenet_v2");
  const model = require(path.join(root, "model.min.js"));
  const shard = require(path.join(root, "group1-shard1of1.min.js"));
  const data = Buffer.from(shard, "base64");
  const handler = tf.io.fromMemory({
    modelTopology: model.modelTopology,
    weightSpecs: model.weightsManifest[0].weights,
    weightData: data.buffer.slice(data.byteOffset, data.byteOffset + data.length),
  });
  const net = await tf.loadLayersModel(handler);
  const found = {};
  for (const [number, [name, [height, width]]] of Object.entries(shapes).entries()) {
    const pixels = tf.tensor3d(new Uint8Array(read(`${number}.rgb`)), [height, width, 3], "int32");
    let x = pixels.toFloat().div(255); // as NSFWJS.infer does
    if (height !== 224 || width !== 224) x = tf.image.resizeBilinear(x, [224, 224], true);
    found[name] = Array.from(net.predict(x.expandDims()).dataSync());
  }
  return found;
}

async function faceApi() {
  const api = require(path.join(modules, "@vladmandic/face-api/dist/face-api.node-wasm.js"));
  const root = path.join(modules, "@vladmandic/face-api/model");
  const load = (net, name) => {
    const manifest = JSON.parse(fs.readFileSync(path.join(root, `${name}-weights_manifest.json`)));
    const data = fs.readFileSync(path.join(root, `${name}.bin`));
    const buffer = data.buffer.slice(data.byteOffset, data.byteOffset + data.length);
    net.loadFromWeightMap(tf.io.decodeWeights(buffer, manifest.flatMap((one) => one.weights)));
  };
  load(api.nets.tinyFaceDetector, "tiny_face_detector_model");
  load(api.nets.ageGenderNet, "age_gender_model");
  const found = {};
  for (const [number, [name, [height, width]]] of Object.entries(shapes).entries()) {
    const pixels = tf.tensor3d(new Uint8Array(read(`${number}.rgb`)), [height, width, 3], "int32");
    const options = new api.TinyFaceDetectorOptions({ inputSize: 416, scoreThreshold: 1e-9 });
    const boxes = await api.nets.tinyFaceDetector.locateFaces(pixels, options);
    const best = boxes.reduce((a, b) => (b.score > a.score ? b : a)); // without a threshold
    const { x, y, width: w, height: h } = best.box.clipAtImageBorders(width, height);
    const [face] = await api.extractFaceTensors(pixels, [best]);
    const { age } = await api.nets.ageGenderNet.predictAgeAndGender(face);
    const whole = await api.nets.ageGenderNet.predictAgeAndGender(pixels);
    found[name] = { score: best.score, box: [x, y, w, h], age, whole: whole.age };
  }
  return found;
}

(async () => {
  await tf.setBackend("cpu");
  await tf.ready();
  const log = console.log;
  console.log = console.warn = () => {}; // tfjs greets on stdout
  const found = { nsfwjs: await nsfwjs(), "face-api": await faceApi() };
  log(JSON.stringify(found));
})();
